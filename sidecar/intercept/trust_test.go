package intercept

import (
	"bytes"
	"crypto/x509"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// trustOf are trust files in a directory of the test, over two usual roots of
// one name.
func trustOf(t *testing.T) (*trustFiles, []byte) {
	t.Helper()
	usual := append(encode1(newAuthority(t, "Some usual root").cert), encode1(newAuthority(t, "Some usual root").cert)...)
	file := filepath.Join(t.TempDir(), "roots.crt")
	if err := os.WriteFile(file, append([]byte("# comments stay\n"), usual...), 0o600); err != nil {
		t.Fatal(err)
	}
	return &trustFiles{dir: filepath.Join(t.TempDir(), "trust"), roots: []string{"/nowhere", file}}, usual
}

func (f *trustFiles) read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestTrustFilesHoldTheUsualRootsAndTheAuthorities(t *testing.T) {
	t.Parallel()
	f, usual := trustOf(t)
	ours := []*x509.Certificate{newAuthority(t, "weir").cert, newAuthority(t, "weir").cert}
	if err := f.write(ours); err != nil {
		t.Fatal(err)
	}
	if got := f.read(t, ruleset.TrustAuthorities); !bytes.Equal(got, encode(ours)) {
		t.Errorf("the authorities alone are\n%s", got)
	}
	if got, want := f.read(t, ruleset.TrustBundle), append([]byte("# comments stay\n"+string(usual)), encode(ours)...); !bytes.Equal(got, want) {
		t.Errorf("the bundle is\n%s\nwant\n%s", got, want)
	}
	stored, err := pkcs12.DecodeTrustStore(f.read(t, ruleset.TrustStore), "")
	if err != nil || len(stored) != 4 || !stored[3].Equal(ours[1]) {
		t.Errorf("the truststore has %d certificates (%v), want all 4, the newest last", len(stored), err)
	}
	for _, name := range []string{ruleset.TrustAuthorities, ruleset.TrustBundle, ruleset.TrustStore} {
		info, err := os.Stat(filepath.Join(f.dir, name))
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: mode %v (%v), want every user to read it", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(f.dir); err != nil || info.Mode().Perm()&0o555 != 0o555 {
		t.Errorf("the directory: mode %v (%v), want every user to enter it", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(f.dir, ".new-*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestTrustFilesThatAreUpToDateAreLeftAlone(t *testing.T) {
	t.Parallel()
	f, _ := trustOf(t)
	ours := []*x509.Certificate{newAuthority(t, "weir").cert}
	inodes := func() (files []fs.FileInfo) {
		for _, name := range []string{ruleset.TrustAuthorities, ruleset.TrustBundle, ruleset.TrustStore} {
			info, err := os.Stat(filepath.Join(f.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, info)
		}
		return files
	}
	if err := f.write(ours); err != nil {
		t.Fatal(err)
	}
	first := inodes()
	if err := f.write(ours); err != nil {
		t.Fatal(err)
	}
	for n, info := range inodes() {
		if !os.SameFile(first[n], info) {
			t.Errorf("%s was written again with the same content", info.Name())
		}
	}
	if err := f.write(append(ours, newAuthority(t, "weir").cert)); err != nil {
		t.Fatal(err)
	}
	for n, info := range inodes() {
		if os.SameFile(first[n], info) {
			t.Errorf("%s was not replaced by another file", info.Name())
		}
	}
}

// Whoever reads while the files change reads the old or the new, whole.
func TestTrustFilesAreReplacedWhole(t *testing.T) {
	t.Parallel()
	f, _ := trustOf(t)
	a, b := newAuthority(t, "weir"), newAuthority(t, "weir")
	one, both := []*x509.Certificate{a.cert}, []*x509.Certificate{a.cert, b.cert}
	if err := f.write(one); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if got := f.read(t, ruleset.TrustAuthorities); !bytes.Equal(got, encode(one)) && !bytes.Equal(got, encode(both)) {
				t.Errorf("read half a file: %d bytes", len(got))
			}
		}
	})
	for range 50 {
		if err := f.write(both); err != nil {
			t.Error(err)
		}
		if err := f.write(one); err != nil {
			t.Error(err)
		}
	}
	close(done)
	reading.Wait()
}

func TestTrustFilesNeedTheUsualRoots(t *testing.T) {
	t.Parallel()
	f, _ := trustOf(t)
	f.roots = []string{"/nowhere"}
	if err := f.write(nil); err == nil || !strings.Contains(err.Error(), "usual roots") {
		t.Errorf("without the usual roots: %v, want an error that says so", err)
	}
}

func TestUseKeepsWhatIsInForceWhenTheNextCannotBe(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	h := build(t, operator, nil, []string{host})
	for _, rs := range []*ruleset.Ruleset{
		{Authorities: "nonsense", Policies: []ruleset.Policy{intercepting("other", "other.test")}},
		{Authorities: strings.Repeat(operator.pem(), maxAuthorities+1)},
		{Authorities: operator.pem(), HostRoots: "nonsense"},
	} {
		if err := h.Use(rs); err == nil {
			t.Error("authorities that are none were taken")
		}
	}
	h.trust.dir = "/dev/null/nowhere"
	if err := h.Use(&ruleset.Ruleset{Authorities: operator.pem()}); err == nil {
		t.Error("trust files that cannot be written were not missed")
	}
	if !h.Wants(host) || h.Wants("other.test") {
		t.Error("the policies in force changed with a Ruleset that cannot be")
	}
}

func TestKeytoolReadsTheTruststore(t *testing.T) {
	t.Parallel()
	keytool := installed(t, "keytool")
	f, _ := trustOf(t)
	if err := f.write([]*x509.Certificate{newAuthority(t, "weir").cert, newAuthority(t, "weir").cert}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keytool, "-list", "-keystore", filepath.Join(f.dir, ruleset.TrustStore),
		"-storepass", "any password", "-J-XX:TieredStopAtLevel=1").CombinedOutput()
	if err != nil || strings.Count(string(out), "trustedCertEntry") != 4 || !strings.Contains(string(out), "contains 4 entries") {
		t.Errorf("keytool: %v, want 4 trusted certificates of it:\n%s", err, out)
	}
}

// installed finds a program or skips the test.
func installed(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	return path
}
