package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// commandTimeout bounds one kubectl command.
const commandTimeout = 90 * time.Second

func tryKubectl(arguments ...string) (string, error) {
	command := exec.Command(kubectl, arguments...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Start(); err != nil {
		return "", fmt.Errorf("starting kubectl (KUBECTL names another): %w", err)
	}
	timer := time.AfterFunc(commandTimeout, func() { _ = command.Process.Kill() })
	defer timer.Stop()
	if err := command.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(arguments, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// runKubectl runs kubectl as a user does and returns what it prints.
func runKubectl(arguments ...string) string {
	GinkgoHelper()
	output, err := tryKubectl(arguments...)
	Expect(err).NotTo(HaveOccurred())
	return output
}

// execIn runs a command in a pod's application container.
func execIn(namespace, pod string, command ...string) string {
	GinkgoHelper()
	return runKubectl(append([]string{"-n", namespace, "exec", pod, "-c", "app", "--"}, command...)...)
}

// report is what `app call` prints.
type report struct {
	Statuses   map[string]int `json:"statuses"`
	AnsweredBy map[string]int `json:"answeredBy"`
	Refused    *struct {
		Status  int                 `json:"status"`
		Headers map[string][]string `json:"headers"`
		Body    map[string]any      `json:"body"`
	} `json:"refused"`
	Peer *struct {
		Issuer string `json:"issuer"`
		Serial string `json:"serial"`
	} `json:"peer"`
	Last *struct {
		Pod      string              `json:"pod"`
		Host     string              `json:"host"`
		Headers  map[string][]string `json:"headers"`
		Requests int64               `json:"requests"`
		Probes   int64               `json:"probes"`
	} `json:"last"`
	P50Micros int64  `json:"p50Micros"`
	P99Micros int64  `json:"p99Micros"`
	MaxMicros int64  `json:"maxMicros"`
	Error     string `json:"error"`
}

// answered is the number of requests that reached an application.
func (r report) answered() int {
	total := 0
	for _, n := range r.AnsweredBy {
		total += n
	}
	return total
}

// callFrom sends requests from a pod with `app call`.
func callFrom(namespace, pod string, arguments ...string) report {
	GinkgoHelper()
	output := execIn(namespace, pod, append([]string{"/app", "call"}, arguments...)...)
	var got report
	Expect(json.Unmarshal([]byte(output), &got)).To(Succeed(), output)
	return got
}
