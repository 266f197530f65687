package chaos

import (
	"bufio"
	"bytes"
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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/child"
)

// sidecar is one pod's, a process.
type sidecar struct {
	t      *testing.T
	binary string
	dir    string
	token  string
	// records is its audit file, and log what it said.
	records, log string
	bootstrap    ruleset.Bootstrap
	// application is the port that requests go on to.
	application uint16
	// entrance is where requests for the application are accepted.
	entrance atomic.Pointer[string]
	process  *child.Process
}

// start runs the process, on ports that are free, and returns when it serves.
func (s *sidecar) start() {
	s.t.Helper()
	var err error
	for range 5 { // somebody else may have taken a port meanwhile
		if err = s.try(); err == nil {
			return
		}
	}
	s.t.Fatalf("starting a sidecar: %v", err)
}

func (s *sidecar) try() error {
	ports := freePorts(s.t, 4)
	s.bootstrap.Explicit = &ruleset.Explicit{Inbound: []ruleset.ExplicitPort{{Listen: ports[0], Port: s.application}}}
	stamped, err := json.Marshal(s.bootstrap)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	command := exec.Command(s.binary, "--state-dir="+s.dir, "--token-file="+filepath.Join(s.dir, "token"),
		"--audit-file="+s.records, "--drain-timeout=5s",
		fmt.Sprintf("--outbound-port=%d", ports[1]), fmt.Sprintf("--local-port=%d", ports[2]), fmt.Sprintf("--health-port=%d", ports[3]))
	command.Env = []string{ruleset.BootstrapEnv + "=" + string(stamped)}
	command.Stderr = log
	if s.process, err = child.Start(command); err != nil {
		return err
	}
	entrance := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0])))
	ready := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[3]))) + "/readyz"
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-s.process.Done():
			return fmt.Errorf("it ended with %v and said: %s", s.process.Err(), s.said())
		default:
		}
		// The port may be somebody else's until it says that it serves.
		if err = s.serving(info.Size()); err == nil {
			err = get(ready)
		}
		if err == nil {
			break
		}
		if time.Now().After(end) {
			s.process.Kill()
			return fmt.Errorf("not ready after %v: %w; it said: %s", patience, err, s.said())
		}
	}
	s.entrance.Store(&entrance)
	return nil
}

// kill ends it as a crash does.
func (s *sidecar) kill() {
	if s.process != nil {
		s.process.Kill()
	}
}

// stop ends it as the kubelet does.
func (s *sidecar) stop() error {
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.process.Done():
		return s.process.Err()
	case <-time.After(patience):
		return fmt.Errorf("it did not end in %v", patience)
	}
}

// serving is an error until the sidecar has said, after so many bytes of its log,
// that it has all its ports.
func (s *sidecar) serving(from int64) error {
	text, err := os.ReadFile(s.log)
	if err == nil && !bytes.Contains(text[from:], []byte(`"msg":"serving"`)) {
		err = errors.New("it does not serve")
	}
	return err
}

func (s *sidecar) said() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

func get(url string) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}

func freePorts(t *testing.T, n int) (ports []uint16) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }() // all are held until all are known
		ports = append(ports, listener.Addr().(*net.TCPAddr).AddrPort().Port())
	}
	return ports
}

// client is one connection to a sidecar.
type client struct {
	sidecar *sidecar
	conn    net.Conn
	reader  *bufio.Reader
}

// ask sends a request, and returns its status and how long the answer took. After
// an error the next one makes a new connection.
func (c *client) ask(path, user string) (status int, took time.Duration, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", *c.sidecar.entrance.Load(), hang); err != nil {
			c.conn = nil
			return 0, 0, err
		}
		c.reader = bufio.NewReader(c.conn)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	begun := time.Now()
	if err = c.conn.SetDeadline(begun.Add(patience)); err != nil {
		return 0, 0, err
	}
	if _, err = fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: app\r\nX-User-ID: %s\r\n\r\n", path, user); err != nil {
		return 0, 0, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, 0, err
	}
	took = time.Since(begun)
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, took, err
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
