package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

var _ = Describe("usage's lists", Ordered, func() {
	var (
		redis            *redistest.Server
		leader, follower *replica
		namespace        string
		reader, desk     string // tokens: without callers' names, and with them
		front            string // of one who asks by names
		document         map[string]any
	)

	// happen has a sidecar report something now.
	happen := func(what func(*report.Recording)) {
		GinkgoHelper()
		recorder := report.New(report.Options{Pod: "web-1", Logger: slog.New(slog.DiscardHandler)})
		recorder.Use(leader.rulesets.Settings().Store)
		what(recorder.Follow(namespace, []string{"spotify"})[0])
		recorder.Close()
	}

	BeforeAll(func() {
		redis = redistest.Start(GinkgoTB())
		operatorNamespace := newNamespace(nil)
		keeper := certs.New(certs.Options{Client: k8sClient, Namespace: operatorNamespace, DNSNames: []string{"localhost"}, Logger: GinkgoLogr})
		Expect(keeper.Ensure(ctx)).To(Succeed())
		leader, follower = newReplica(keeper, operatorNamespace, time.Now), newReplica(keeper, operatorNamespace, time.Now)
		for _, r := range []*replica{leader, follower} {
			r.rulesets.Configure(programming.Settings{Store: &ruleset.Store{URL: redis.URL(), TimeoutMillis: 5000}, Link: r.link})
		}
		leader.lead(follower, tokenOf(operatorNamespace, "default", ruleset.Audience, nil))
		leader.start()
		follower.start()

		namespace = newNamespace(nil)
		policy := createPolicy(namespace, "spotify", "", 3)
		for _, name := range []string{"openai", "steam", "youtube"} {
			createPolicy(namespace, name, "", 10)
		}
		Eventually(shows(policy, "Ready")).ShouldNot(BeEmpty())
		reader = personWith(namespace, "reader", map[string][]string{"ratelimitpolicies": {"get", "list"}, "ratelimitpolicies/usage": {"list"}})
		front = personWith(namespace, "front", map[string][]string{"ratelimitpolicies/usage": {"get"}})
		desk = personWith(namespace, "desk", map[string][]string{"ratelimitpolicies/usage": {"list"}, "ratelimitpolicies/status": {"get"}})

		status, text := leader.get("", "/v1/openapi.json")
		Expect(status).To(Equal(http.StatusOK), "it is for everybody")
		Expect(json.Unmarshal([]byte(text), &document)).To(Succeed())

		happen(func(r *report.Recording) {
			for range 20 {
				r.Admitted("alice", 1, false)
			}
			r.Limited("bob", 2, limiter.Quota{Limit: ruleset.Limit{Requests: 3, WindowMillis: 60_000}, RetryAfter: time.Minute}, false, false)
			r.Limited("bob", 2, limiter.Quota{Limit: ruleset.Limit{Requests: 3, WindowMillis: 60_000}, RetryAfter: time.Minute}, false, true)
			r.Admitted("", 1, false)
		})
		limits := limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)})
		DeferCleanup(limits.Close)
		Expect(limits.Use(leader.rulesets.Settings().Store)).To(Succeed())
		_, err := limits.Take(ctx, []limiter.Take{{Namespace: namespace, Service: "spotify", Identity: "alice", Limits: []ruleset.Limit{{Requests: 3, WindowMillis: 60_000}}}})
		Expect(err).NotTo(HaveOccurred())
	})

	// ask expects an answer, which has to be as the document says.
	ask := func(r *replica, token, path, schema string, into any) {
		GinkgoHelper()
		status, text := r.get(token, path)
		Expect(status).To(Equal(http.StatusOK), text)
		var answer any
		Expect(json.Unmarshal([]byte(text), &answer)).To(Succeed())
		Expect(deviations(document, "#/components/schemas/"+schema, answer)).To(BeEmpty(), text)
		Expect(json.Unmarshal([]byte(text), into)).To(Succeed())
	}

	It("tells a page of policies after the other, with what happens at them", func() {
		var names []string
		next := ""
		for pages := 1; ; pages++ {
			var page usage.Policies
			ask(follower, reader, "/v1/policies?limit=3&series=true&namespace="+namespace+next, "Policies", &page)
			Expect(page.Missing).To(BeEmpty())
			for _, policy := range page.Policies {
				names = append(names, policy.Policy)
				Expect(policy.Rates).NotTo(BeNil())
				Expect(policy.Hour.Admitted).To(HaveLen(60))
				if policy.Policy == "spotify" { // alice took one of three
					Expect(policy.MostUsed).To(Equal(&usage.Use{Requests: 3, Window: metav1.Duration{Duration: time.Minute}, Used: 1}))
				} else {
					Expect(policy.MostUsed).To(BeNil())
				}
			}
			if page.Continue == "" {
				Expect(pages).To(Equal(2))
				break
			}
			next = "&continue=" + page.Continue
		}
		Expect(names).To(Equal([]string{"openai", "spotify", "steam", "youtube"}))
	})

	It("tells of one policy how it is, and what happened", func() {
		var found usage.Policy
		Eventually(func(g Gomega) { // the status, and the cache
			ask(leader, reader, usage.Prefix+namespace+"/spotify", "Policy", &found)
			g.Expect(found.State).To(Equal("Ready"))
		}).Should(Succeed())
		Expect(found.Limits).To(Equal([]usage.Quota{{Requests: 3, Window: metav1.Duration{Duration: time.Minute}}}))
		Expect(found.Conditions).To(HaveLen(4))
		Expect(sum(found.Recent.Admitted)).To(Equal(int64(21)))
		Expect(sum(found.Hour.Limited)).To(Equal(int64(2)))
		Expect(sum(found.Hour.WithoutRedis)).To(Equal(int64(1)))
		Expect(found.Recent.StepSeconds).To(Equal(int64(2)))
		// The rate is of the ten seconds that ended a moment ago.
		Eventually(func(g Gomega) {
			happen(func(r *report.Recording) { r.Admitted("alice", 1, false) })
			ask(leader, reader, usage.Prefix+namespace+"/spotify", "Policy", &found)
			g.Expect(found.Rates.Admitted).To(BeNumerically(">", 0))
		}).Should(Succeed())
	})

	It("tells who asks most, by name for those who may know it", func() {
		var found usage.Callers
		ask(follower, desk, usage.Prefix+namespace+"/spotify/callers", "Callers", &found)
		Expect(found.Callers).To(HaveLen(3))
		alice, bob, unnamed := found.Callers[0], found.Callers[1], found.Callers[2]
		Expect(*alice.Identity).To(Equal("alice"))
		Expect(alice.Asked).To(BeNumerically(">=", 20))
		Expect(alice.Limits[0].Used).To(Equal(int64(1)))
		Expect(alice.Limits[0].Remaining).To(Equal(int64(2)))
		Expect(alice.Limits[0].FreesAfterSeconds).To(BeNumerically(">", 0))
		Expect(*bob.Identity).To(Equal("bob"))
		Expect([]int64{bob.Asked, bob.Limited}).To(Equal([]int64{4, 4}))
		Expect(*unnamed.Identity).To(BeEmpty())

		By("and by another for the others, the same at every replica")
		var hidden, again usage.Callers
		ask(leader, reader, usage.Prefix+namespace+"/spotify/callers?limit=2", "Callers", &hidden)
		ask(follower, reader, usage.Prefix+namespace+"/spotify/callers?limit=2", "Callers", &again)
		Expect(hidden.Callers).To(HaveLen(2))
		for i := range hidden.Callers {
			Expect(hidden.Callers[i].Identity).To(BeNil())
			Expect(hidden.Callers[i].Pseudonym).To(And(HavePrefix("caller-"), Equal(again.Callers[i].Pseudonym)))
		}
		Expect(hidden.Callers[0].Pseudonym).NotTo(Equal(hidden.Callers[1].Pseudonym))
		again = usage.Callers{}
		ask(leader, reader, usage.Prefix+namespace+"/spotify/callers?limit=2&continue="+hidden.Continue, "Callers", &again)
		Expect(again.Callers).To(HaveLen(1))
		Expect(again.Continue).To(BeEmpty())

		By("and who was refused last")
		var refused usage.Refusals
		ask(follower, desk, usage.Prefix+namespace+"/spotify/refusals", "Refusals", &refused)
		Expect(refused.Refusals).To(HaveLen(1))
		first := refused.Refusals[0]
		Expect(*first.Identity).To(Equal("bob"))
		Expect(first.Pod).To(Equal("web-1"))
		Expect(first.Requests).To(Equal(int64(3)))
		Expect(first.Frees.Sub(first.At)).To(Equal(time.Minute))
		refused = usage.Refusals{}
		ask(follower, reader, usage.Prefix+namespace+"/spotify/refusals", "Refusals", &refused)
		Expect(refused.Refusals[0].Name.Pseudonym).To(Equal(hidden.Callers[1].Pseudonym))
	})

	It("tells when what a caller has used was admitted", func() {
		all := func(w usage.Window) int64 { return sum(w.Units) + w.Reserved }
		var named, again usage.CallerWindow
		ask(leader, front, usage.Prefix+namespace+"/spotify/window?identity=alice", "CallerWindow", &named)
		Expect(*named.Identity).To(Equal("alice"))
		Expect(named.Limits[0].Used).To(Equal(int64(1)))
		Expect(named.Windows).To(HaveLen(1))
		Expect(named.Windows[0].Requests).To(Equal(int64(3)))
		Expect(all(named.Windows[0])).To(Equal(int64(1)))
		Expect(named.Windows[0].StepSeconds).To(Equal(1.2))
		Expect(len(named.Windows[0].Units)).To(BeNumerically("~", 50, 1))
		Expect(named.Windows[0].Begin).To(BeTemporally("~", time.Now().Add(-time.Minute), 10*time.Second))
		ask(follower, front, usage.Prefix+namespace+"/spotify/window?identity=nobody", "CallerWindow", &again)
		Expect(all(again.Windows[0])).To(BeZero())

		By("and by the pseudonym of lists, without what people did to those whose name is not told")
		var list usage.Callers
		ask(leader, reader, usage.Prefix+namespace+"/spotify/callers?limit=1", "Callers", &list)
		alice := usage.Prefix + namespace + "/spotify/callers/" + list.Callers[0].Pseudonym
		var hidden usage.CallerWindow
		ask(follower, reader, alice, "CallerWindow", &hidden)
		Expect(hidden.Identity).To(BeNil())
		Expect(hidden.Pseudonym).To(Equal(list.Callers[0].Pseudonym))
		Expect(all(hidden.Windows[0])).To(Equal(int64(1)))
		ask(follower, desk, alice, "CallerWindow", &hidden)
		Expect(*hidden.Identity).To(Equal("alice"))
		for _, attempt := range []struct {
			token, path string
			status      int
		}{
			{front, alice, http.StatusForbidden},
			{reader, usage.Prefix + namespace + "/spotify/window?identity=alice", http.StatusForbidden},
			{reader, usage.Prefix + namespace + "/openai/callers/" + list.Callers[0].Pseudonym, http.StatusNotFound},
			{reader, usage.Prefix + namespace + "/spotify/callers/alice", http.StatusNotFound},
			{front, usage.Prefix + namespace + "/spotify/window", http.StatusBadRequest},
		} {
			status, text := leader.get(attempt.token, attempt.path)
			Expect(status).To(Equal(attempt.status), text)
		}
	})

	It("tells only those who may", func() {
		for _, attempt := range []struct {
			token, path string
			status      int
			says        string
		}{
			{"", "/v1/policies", http.StatusUnauthorized, "kubectl create token"},
			{reader, "/v1/policies", http.StatusForbidden, "may not list ratelimitpolicies in all namespaces: a ClusterRole has to allow it"},
			{reader, "/v1/policies?namespace=default", http.StatusForbidden, "in namespace default: a Role has to allow it"},
			{desk, "/v1/policies?namespace=" + namespace, http.StatusForbidden, "may not list ratelimitpolicies in namespace"},
			{desk, usage.Prefix + namespace + "/spotify", http.StatusForbidden, "may not get ratelimitpolicies spotify"},
			{reader, usage.Prefix + namespace + "/spotify/usage?identity=alice", http.StatusForbidden, "may not get ratelimitpolicies/usage"},
			{reader, usage.Prefix + "default/spotify/callers", http.StatusForbidden, "may not list ratelimitpolicies/usage"},
			{reader, usage.Prefix + namespace + "/none", http.StatusNotFound, "There is no RateLimitPolicy none"},
			{reader, "/v1/policies?namespace=" + namespace + "&limit=501", http.StatusBadRequest, "1 to 500"},
			{reader, "/v1/policies?namespace=" + namespace + "&series=yes", http.StatusBadRequest, "true or false"},
			{reader, "/v1/policies?namespace=" + namespace + "&namespace=default", http.StatusBadRequest, "2 times"},
			{reader, usage.Prefix + namespace + "/spotify/callers?continue=x", http.StatusBadRequest, "continue"},
			{reader, "/v1/other", http.StatusNotFound, ""},
		} {
			By(attempt.path)
			status, text := leader.get(attempt.token, attempt.path)
			Expect(status).To(Equal(attempt.status), text)
			Expect(text).To(ContainSubstring(attempt.says))
		}
	})

	It("knows people by their client certificates, as the API server does", func() {
		user, err := environment.AddUser(envtest.User{Name: "carol", Groups: []string{"night-desk"}}, nil)
		Expect(err).NotTo(HaveOccurred())
		carol := user.Config()
		status, text := leader.getBy(carol, nil, usage.Prefix+namespace+"/spotify")
		Expect(status).To(Equal(http.StatusForbidden), text)
		Expect(text).To(ContainSubstring("User carol may not get ratelimitpolicies spotify"))
		Expect(k8sClient.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "night-desk"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "desk"},
			Subjects:   []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "night-desk"}},
		})).To(Succeed())
		Eventually(func() int {
			status, _ = follower.getBy(carol, nil, usage.Prefix+namespace+"/spotify/callers")
			return status
		}).Should(Equal(http.StatusOK))

		By("unless there is a token, which counts then")
		status, text = leader.getBy(carol, http.Header{"Authorization": {"Bearer " + reader}}, usage.Prefix+namespace+"/spotify")
		Expect(status).To(Equal(http.StatusOK), text)
		status, _ = leader.getBy(carol, http.Header{"Authorization": {"Bearer made-up"}}, usage.Prefix+namespace+"/spotify/callers")
		Expect(status).To(Equal(http.StatusUnauthorized))

		By("not by anybody else's")
		serving, err := leader.keeper.GetCertificate(&tls.ClientHelloInfo{})
		Expect(err).NotTo(HaveOccurred())
		Expect(leader.try(*serving, nil, usage.Prefix+namespace+"/spotify")).To(MatchError(ContainSubstring("bad certificate")))
	})

	It("tells what Kubernetes knows when Redis does not answer", func() {
		redis.Kill()
		var page usage.Policies
		ask(leader, reader, "/v1/policies?namespace="+namespace, "Policies", &page)
		Expect(page.Missing).To(And(ContainSubstring("Redis did not say"), Not(ContainSubstring(redis.Addr))))
		Expect(page.Policies).To(HaveLen(4))
		Expect(page.Policies[0].Rates).To(BeNil())
		var one usage.Policy
		ask(leader, reader, usage.Prefix+namespace+"/spotify", "Policy", &one)
		Expect(one.Missing).To(ContainSubstring("Redis did not say"))
		status, text := leader.get(reader, usage.Prefix+namespace+"/spotify/callers")
		Expect(status).To(Equal(http.StatusServiceUnavailable), text)
	})
})

func sum(counts []int64) (all int64) {
	for _, count := range counts {
		all += count
	}
	return all
}

// personWith is person with verbs by resource.
func personWith(namespace, name string, verbs map[string][]string) string {
	GinkgoHelper()
	token := person(namespace, name, nil)
	role := &rbacv1.Role{}
	Expect(k8sClient.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, role)).To(Succeed())
	for resource, allowed := range verbs {
		role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{resource}, Verbs: allowed})
	}
	Expect(k8sClient.Update(ctx, role)).To(Succeed())
	return token
}

// get asks with a token; empty: with none.
func (r *replica) get(token, path string) (status int, text string) {
	GinkgoHelper()
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return r.getBy(&rest.Config{}, header, path)
}

// getBy asks with a user's client certificate, if there is one.
func (r *replica) getBy(user *rest.Config, header http.Header, path string) (status int, text string) {
	GinkgoHelper()
	var certificate tls.Certificate
	if len(user.CertData) > 0 {
		var err error
		certificate, err = tls.X509KeyPair(user.CertData, user.KeyData)
		Expect(err).NotTo(HaveOccurred())
	}
	response, err := r.send(certificate, header, path)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, string(read)
}

// try asks and returns why there was no answer.
func (r *replica) try(certificate tls.Certificate, header http.Header, path string) error {
	GinkgoHelper()
	response, err := r.send(certificate, header, path)
	if err == nil {
		_ = response.Body.Close()
	}
	return err
}

func (r *replica) send(certificate tls.Certificate, header http.Header, path string) (*http.Response, error) {
	GinkgoHelper()
	by := r.client()
	if len(certificate.Certificate) > 0 {
		by.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &certificate, nil
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.link.Address+path, nil)
	Expect(err).NotTo(HaveOccurred())
	if header != nil {
		request.Header = header
	}
	return by.Do(request)
}

// deviations of a value from a schema of an OpenAPI document.
func deviations(document map[string]any, ref string, value any) []string {
	schema, _ := document["components"].(map[string]any)["schemas"].(map[string]any)[ref[strings.LastIndex(ref, "/")+1:]].(map[string]any)
	if schema == nil {
		return []string{"no schema " + ref}
	}
	object, ok := value.(map[string]any)
	if !ok {
		return []string{ref + " is no object"}
	}
	var found []string
	for _, name := range schema["required"].([]any) {
		if _, there := object[name.(string)]; !there {
			found = append(found, fmt.Sprintf("%s lacks %v", ref, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		property, described := schema["properties"].(map[string]any)[name].(map[string]any)
		if !described {
			found = append(found, ref+" has "+name)
			continue
		}
		found = append(found, misfits(document, ref+"."+name, property, object[name])...)
	}
	return found
}

func misfits(document map[string]any, where string, property map[string]any, value any) []string {
	if ref, ok := property["$ref"].(string); ok {
		return deviations(document, ref, value)
	}
	fits := false
	switch property["type"] {
	case "string":
		_, fits = value.(string)
		if allowed, some := property["enum"].([]any); some {
			fits = fits && slices.Contains(allowed, value)
		}
		if property["format"] == "date-time" && fits {
			_, err := time.Parse(time.RFC3339Nano, value.(string))
			fits = err == nil
		}
	case "integer", "number":
		_, fits = value.(float64)
	case "boolean":
		_, fits = value.(bool)
	case "array":
		var found []string
		elements, ok := value.([]any)
		for _, element := range elements {
			found = append(found, misfits(document, where, property["items"].(map[string]any), element)...)
		}
		if ok {
			return found
		}
	}
	if !fits {
		return []string{fmt.Sprintf("%s is %v", where, value)}
	}
	return nil
}
