package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/child"
)

// ports that are free now.
func ports(ctx context.Context, count int) ([]string, error) {
	var found []string
	for range count {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }() // all are taken until all are found
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			return nil, err
		}
		found = append(found, port)
	}
	return found, nil
}

// binary is the operator, and how it is started.
type binary struct {
	folder                               string
	path                                 string
	kubeconfig                           string
	storeURL                             string
	webhook, link, metrics, health, prof string // ports
	process                              *child.Process
	command                              *exec.Cmd
}

// build makes the operator as the Makefile does.
func build(ctx context.Context, o Options, folder string) (string, error) {
	path := filepath.Join(folder, "operator")
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	command.Dir = o.Root
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the operator: %w\n%s", err, output)
	}
	return path, nil
}

// linkAddress is the address that sidecars reach the link at. Its host is also
// what the webhook is reached at, as the certificate is for it.
func (b *binary) linkAddress() string { return net.JoinHostPort("localhost", b.link) }

func (b *binary) webhookURL() string {
	return "https://" + net.JoinHostPort("localhost", b.webhook) + "/mutate-v1-pod"
}

// start runs the operator.
func (b *binary) start() error {
	log, err := os.OpenFile(b.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	b.command = exec.Command(b.path,
		"--webhook-port", b.webhook, "--link-port", b.link, "--link-address", b.linkAddress(),
		"--metrics-address", net.JoinHostPort("127.0.0.1", b.metrics), "--health-address", net.JoinHostPort("127.0.0.1", b.health),
		"--profile-address", net.JoinHostPort("127.0.0.1", b.prof),
		"--store-url-file", b.storeURL, "--sidecar-image", "weir-sidecar:bench")
	b.command.Stdout, b.command.Stderr = log, log
	b.command.Env = []string{"KUBECONFIG=" + b.kubeconfig, "POD_NAMESPACE=" + systemNamespace, "POD_SERVICE_ACCOUNT=" + serviceAccount, "POD_IP=127.0.0.1"}
	b.process, err = child.Start(b.command)
	return err
}

func (b *binary) logFile() string { return filepath.Join(b.folder, "operator.log") }

func (b *binary) kill() {
	if b.process != nil {
		b.process.Kill()
	}
}

// ended is the operator's last words when it has ended.
func (b *binary) ended() error {
	select {
	case <-b.process.Done():
	default:
		return nil
	}
	text, _ := os.ReadFile(b.logFile())
	return fmt.Errorf("the operator ended (exit: %s)\n%s", b.command.ProcessState, text[max(0, len(text)-4096):])
}

func (b *binary) get(ctx context.Context, port, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort("127.0.0.1", port)+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the operator for %s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}

func (b *binary) ready(ctx context.Context) (bool, error) {
	if err := b.ended(); err != nil {
		return false, err
	}
	_, err := b.get(ctx, b.health, "/readyz")
	return err == nil, nil
}

// held is how many sidecars the operator holds a request of; 0 while it cannot say.
func (b *binary) held(ctx context.Context) (int, error) {
	if err := b.ended(); err != nil {
		return 0, err
	}
	text, err := b.get(ctx, b.metrics, "/metrics")
	if err != nil {
		return 0, nil //nolint:nilerr // it does not serve yet
	}
	_, after, found := bytes.Cut(text, []byte("\nweir_link_held_requests "))
	if !found {
		return 0, nil
	}
	value, _, _ := bytes.Cut(after, []byte("\n"))
	held, err := strconv.ParseFloat(string(value), 64)
	return int(held), err
}

// profile keeps a profile in a folder; without a folder it does nothing.
func (b *binary) profile(ctx context.Context, folder, name, path string) error {
	if folder == "" {
		return nil
	}
	content, err := b.get(ctx, b.prof, "/debug/pprof/"+path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, name), content, 0o600)
}

// clockTicks a second of /proc/PID/stat.
const clockTicks = 100

// cpu time that the operator has used, in seconds.
func (b *binary) cpu() (float64, error) {
	text, err := os.ReadFile(b.proc("stat"))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, errors.New("the kernel's line on the operator is too short")
	}
	total := 0.0
	for _, field := range fields[11:13] { // utime, stime
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		total += ticks / clockTicks
	}
	return total, nil
}

// memory is what is resident now, and at most since forgetPeak, in MiB.
func (b *binary) memory() (resident, peak float64, err error) {
	text, err := os.ReadFile(b.proc("status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*float64{"VmRSS": &resident, "VmHWM": &peak}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
		if err != nil {
			return 0, 0, err
		}
		*into = kib / 1024
	}
	return resident, peak, nil
}

func (b *binary) forgetPeak() error { return os.WriteFile(b.proc("clear_refs"), []byte("5"), 0o600) }

func (b *binary) proc(file string) string {
	return filepath.Join("/proc", strconv.Itoa(b.command.Process.Pid), file)
}

// startRedis runs a Redis and returns its URL.
func startRedis(ctx context.Context, folder string) (*child.Process, string, error) {
	free, err := ports(ctx, 1)
	if err != nil {
		return nil, "", err
	}
	server, err := child.Start(exec.Command("redis-server", "--bind", "127.0.0.1", "--port", free[0], "--save", "", "--dir", folder, "--logfile", filepath.Join(folder, "redis.log")))
	if err != nil {
		return nil, "", fmt.Errorf("starting redis-server: %w", err)
	}
	return server, "redis://127.0.0.1:" + free[0] + "/0", nil
}

// until polls until something is so.
func until(ctx context.Context, patience, interval time.Duration, what string, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		yes, err := is()
		if err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v and it is not so: %s", patience, what)
		case <-ticker.C:
		}
	}
}

// kubeconfig is a file for the operator.
func kubeconfig(path, host string, authority []byte, token string) error {
	content, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "bench",
		"clusters": []any{map[string]any{"name": "bench", "cluster": map[string]any{"server": host, "certificate-authority-data": authority}}},
		"users":    []any{map[string]any{"name": "bench", "user": map[string]any{"token": token}}},
		"contexts": []any{map[string]any{"name": "bench", "context": map[string]any{"cluster": "bench", "user": "bench"}}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}
