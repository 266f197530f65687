package e2e

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	"github.com/onsi/gomega/gexec"

	"github.com/weir-dev/weir/worker/tasks"
)

// plugin is kubectl weir, as its users run it.
type plugin struct{ namespace string }

// buildPlugin puts it into PATH.
func buildPlugin(namespace string) plugin {
	GinkgoHelper()
	built, err := gexec.Build("github.com/weir-dev/weir/kubectl-weir")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(gexec.CleanupBuildArtifacts)
	folder := GinkgoT().TempDir()
	completing, err := filepath.Abs("../../kubectl-weir/kubectl_complete-weir")
	Expect(err).NotTo(HaveOccurred())
	for name, program := range map[string]string{"kubectl-weir": built, "kubectl_complete-weir": completing} {
		Expect(os.Symlink(program, filepath.Join(folder, name))).To(Succeed())
	}
	GinkgoT().Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	return plugin{namespace}
}

func (p plugin) try(arguments ...string) (string, error) {
	return tryKubectl(append([]string{"weir", "-n", p.namespace}, arguments...)...)
}

// varies is what differs from run to run.
var varies = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\b(fails|api)(-now)?(-[a-z0-9]+)+\b`), "$1$2-POD"},
	{regexp.MustCompile(`"version":"[^"]*"`), `"version":"VERSION"`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)`), "TIME"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(µs|ms|s|m|h|d))+\b`), "SPAN"},
	{regexp.MustCompile(`\b\d+\.\d+\b`), "RATE"},
	{regexp.MustCompile(`\be2e-[a-z0-9]+\b`), "NAMESPACE"},
	{regexp.MustCompile(` {2,}`), "  "}, // columns are as wide as what varies
}

// run is a command and what it prints, without what varies.
func (p plugin) run(arguments ...string) string {
	output, err := p.try(arguments...)
	output += errorText(err)
	for _, v := range varies {
		output = v.pattern.ReplaceAllString(output, v.instead)
	}
	return "$ kubectl weir " + strings.Join(arguments, " ") + "\n" + strings.TrimRight(output, "\n") + "\n"
}

// golden is what testdata/plugin has of a command; with UPDATE=1 it has what that
// prints now.
func golden(name string, run func() string) string {
	GinkgoHelper()
	file := filepath.Join("testdata", "plugin", name+".txt")
	if os.Getenv("UPDATE") != "" {
		Expect(os.MkdirAll(filepath.Dir(file), 0o755)).To(Succeed())
		Expect(os.WriteFile(file, []byte(run()), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred(), "UPDATE=1 makes it")
	return string(want)
}

// shows waits until a command that changes nothing prints what it should.
func (p plugin) shows(name string, arguments ...string) {
	GinkgoHelper()
	want := golden(name, func() string {
		time.Sleep(5 * time.Second) // what is waited for below
		return p.run(arguments...)
	})
	Eventually(func() string { return p.run(arguments...) }).Should(Equal(want))
}

// does runs a command that changes something.
func (p plugin) does(name string, arguments ...string) {
	GinkgoHelper()
	said := p.run(arguments...)
	Expect(said).To(Equal(golden(name, func() string { return said })))
}

var _ = Describe("kubectl weir", func() {
	It("shows and changes what is limited", func() {
		namespace := newNamespace()
		api := makePod("api").labelled("app", "api").serving(8080).create(namespace)
		caller := makePod("caller").create(makeNamespace(nil))
		policy := makePolicy("api").selecting("api").admitting(5).within(time.Hour).create(namespace)
		waitReady(api, caller)
		waitEnforced(policy, 1)
		weir := buildPlugin(namespace)
		weir.shows("explain", "explain", api.Name)
		Expect(callFrom(caller.Namespace, caller.Name, "-n=12", "-H=X-User-ID: alice", "http://"+api.Status.PodIP+":8080/").Statuses["200"]).To(Equal(5))
		weir.shows("top-callers", "top", "api")
		weir.shows("check", "check", "api", "--as", "alice")
		weir.does("reset", "reset", "api", "--as", "alice")
		weir.does("grant", "grant", "api", "--as", "alice", "--requests", "3", "--for", "10m", "--reason", "ticket 7")
		weir.shows("grants", "grant", "api")
		weir.does("grant-end", "grant", "api", "--as", "alice", "--end")
		Eventually(func() (string, error) { return weir.try("status", "-o", "json") }).Should(ContainSubstring(`"state": "Ready"`))
		By("when nothing is asked any more")
		Eventually(func() (string, error) { return weir.try("status") }, 3*time.Minute).Should(MatchRegexp(`1/1 +0\.0 +0\.0`))
		weir.shows("status", "status")
		weir.shows("top", "top")
	})

	It("shows the page", func() {
		namespace := newNamespace()
		makePolicy("api").selecting("api").admitting(5).create(namespace)
		runKubectl("-n", namespace, "create", "serviceaccount", "reader")
		runKubectl("-n", namespace, "create", "role", "reader", "--verb=list", "--resource=ratelimitpolicies.weir.dev")
		runKubectl("-n", namespace, "create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+namespace+":reader")
		token := strings.TrimSpace(runKubectl("-n", namespace, "create", "token", "reader"))
		buildPlugin(namespace)
		forward := exec.Command(kubectl, "weir", "dashboard", "--port", "0")
		session, err := gexec.Start(forward, GinkgoWriter, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { session.Interrupt().Wait("20s") })
		Eventually(session.Out).Should(gbytes.Say(`http://127\.0\.0\.1:\d+`))
		address := regexp.MustCompile(`http://[0-9.:]+`).FindString(string(session.Out.Contents()))

		get := func(token string) (int, string) {
			GinkgoHelper()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/limits?q="+namespace, nil)
			Expect(err).NotTo(HaveOccurred())
			request.Header.Set("Authorization", "Bearer "+token)
			response, err := http.DefaultClient.Do(request)
			Expect(err).NotTo(HaveOccurred())
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			Expect(err).NotTo(HaveOccurred())
			return response.StatusCode, string(body)
		}
		Eventually(func() string { _, body := get(token); return body }).Should(ContainSubstring(`href="/limits/` + namespace + `/api"`))
		status, body := get("made-up")
		Expect(status).To(Equal(http.StatusUnauthorized))
		Expect(body).NotTo(ContainSubstring(namespace + "/api"))
	})

	It("shows and runs what is periodic", func() {
		namespace := newNamespace()
		task := makeTask("fails").calling(tasks.Debug, map[string]any{"fail": "boom"}).retried(0, time.Second).workedBy(1, 1).create(namespace)
		waitWorkers(task, 1)
		weir := buildPlugin(namespace)
		weir.does("run", "run", "fails")
		weir.shows("tasks", "tasks")
		weir.shows("dead", "dead", "list", "fails")
		weir.shows("logs", "logs", "fails")
		weir.does("dead-retry", "dead", "retry", "fails", "--all")
		weir.shows("dead", "dead", "list", "fails")

		By("completing, as kubectl asks its plugins")
		for _, line := range [][]string{{"logs", "f"}, {"run", ""}, {"dead", "list", ""}} {
			said := runKubectl(append([]string{"__complete", "weir", "-n", namespace}, line...)...)
			Expect(said).To(HavePrefix("fails\n"))
		}
		weir.shows("completion", "__complete", "logs", "f")
	})
})
