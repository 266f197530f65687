package e2e

import (
	"bufio"
	"context"
	"embed"
	"fmt"
	"io"
	"os/exec"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What an answer is to every client: the application's, and the sidecar's
// refusal.
const (
	admitted = "200:application/json"
	refused  = "429:application/problem+json"
)

//go:embed clients
var clientPrograms embed.FS

// makeClientPrograms puts the programs of clients/ into a ConfigMap for withClientPrograms.
func makeClientPrograms(namespace string) {
	GinkgoHelper()
	programs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "clients"}, Data: map[string]string{}}
	files, err := clientPrograms.ReadDir("clients")
	Expect(err).NotTo(HaveOccurred())
	for _, file := range files {
		text, err := clientPrograms.ReadFile("clients/" + file.Name())
		Expect(err).NotTo(HaveOccurred())
		programs.Data[file.Name()] = string(text)
	}
	Expect(cluster.Create(ctx, programs)).To(Succeed())
}

// withClientPrograms mounts the programs of clients/, and what runs them.
func (b *podBuilder) withClientPrograms() *podBuilder {
	return b.withHostPrograms().withHostJava().mounting("clients", corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "clients"}},
	}, "/clients")
}

// httpClient is a real one in a pod. It asks n times as the user and counts the
// answers.
type httpClient struct {
	name string
	ask  func(user, url string, n int) map[string]int
}

// httpClients are all that the suite has, in two pods: what one asks over
// connections that it keeps from question to question, where it can, and what
// it asks each time over a new one.
func httpClients(one, other *corev1.Pod) (kept, fresh []httpClient) {
	GinkgoHelper()
	for _, version := range []string{"http1.1", "http2"} {
		kept = append(kept, httpClient{"curl-" + version, func(user, url string, n int) map[string]int { // n in one run
			GinkgoHelper()
			return count(execIn(one.Namespace, one.Name, "/usr/bin/curl", "-sS", "--"+version, "--max-time", "60", "-o", "/dev/null",
				"-w", "%{http_code}:%{content_type}\n", "-H", "X-User-ID: "+user, fmt.Sprintf("%s?n=[1-%d]", url, n)))
		}})
	}
	urllib := converse(one, "/usr/bin/python3", "/clients/client.py", "urllib")
	fresh = append(fresh, httpClient{"urllib", urllib.asker("new")})
	for _, c := range []struct {
		name string
		with *conversation
	}{
		{"requests", converse(one, "/usr/bin/python3", "/clients/client.py", "requests")},
		{"Go", converse(one, "/app", "client")},
		{"Node", converse(other, "/usr/bin/node", "/clients/client.mjs")},
		{"Java", converse(other, "/usr/bin/java", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "/clients/Client.java")},
	} {
		kept = append(kept, httpClient{c.name, c.with.asker("kept")})
		fresh = append(fresh, httpClient{c.name, c.with.asker("new")})
	}
	return kept, fresh
}

// conversation is with a program in a pod that goes on from question to
// question, until the test ends.
type conversation struct {
	program   string
	questions io.WriteCloser
	answers   chan string
}

func converse(pod *corev1.Pod, program ...string) *conversation {
	GinkgoHelper()
	going, stop := context.WithCancel(ctx)
	command := exec.CommandContext(going, kubectl,
		append([]string{"-n", pod.Namespace, "exec", "-i", pod.Name, "-c", "app", "--"}, program...)...)
	command.Stderr = GinkgoWriter
	questions, err := command.StdinPipe()
	Expect(err).NotTo(HaveOccurred())
	answers, err := command.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(command.Start()).To(Succeed())
	c := &conversation{program: program[0], questions: questions, answers: make(chan string, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(answers); lines.Scan(); {
			c.answers <- lines.Text()
		}
		_ = command.Wait()
	}()
	DeferCleanup(func() {
		stop()
		<-ended
	})
	return c
}

func (c *conversation) asker(connections string) func(user, url string, n int) map[string]int {
	return func(user, url string, n int) map[string]int {
		GinkgoHelper()
		_, err := fmt.Fprintln(c.questions, connections, user, n, url)
		Expect(err).NotTo(HaveOccurred(), c.program)
		var answers string
		Eventually(c.answers).Should(Receive(&answers), c.program)
		return count(answers)
	}
}
