package intercept

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxRoots bounds the file of the usual roots, in bytes: Debian's has 220 KiB.
const maxRoots = 8 << 20

// rootFiles are where the usual roots may be, as crypto/x509 looks for them.
func rootFiles(named string) []string {
	if named != "" {
		return []string{named}
	}
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem",
	}
}

// trustFiles are what the pod's processes verify TLS with.
type trustFiles struct {
	dir   string
	roots []string // files of the usual roots; the first that is there counts
}

// write brings the files up to date, each replaced whole; what is up to date
// already is left alone.
func (t *trustFiles) write(authorities []*x509.Certificate) error {
	usual, err := t.readRoots()
	if err != nil {
		return err
	}
	ours := encode(authorities)
	store, err := truststore(usual, authorities)
	if err != nil {
		return err
	}
	if err := readable(t.dir); err != nil {
		return err
	}
	return errors.Join(
		replace(filepath.Join(t.dir, ruleset.TrustAuthorities), ours),
		replace(filepath.Join(t.dir, ruleset.TrustBundle), bundle(usual, ours)),
		replace(filepath.Join(t.dir, ruleset.TrustStore), store),
	)
}

// readRoots reads the usual roots, as PEM.
func (t *trustFiles) readRoots() ([]byte, error) {
	for _, file := range t.roots {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the usual roots: %w", err)
		}
		defer func() { _ = f.Close() }()
		roots, err := io.ReadAll(io.LimitReader(f, maxRoots+1))
		if err != nil {
			return nil, fmt.Errorf("reading the usual roots: %w", err)
		}
		if len(roots) > maxRoots {
			return nil, fmt.Errorf("reading the usual roots: %s has more than %d bytes", file, maxRoots)
		}
		return roots, nil
	}
	return nil, errors.New("the usual roots are in none of the files where they are expected: the image has to bring them")
}

// bundle is the usual roots and ours.
func bundle(usual, ours []byte) []byte {
	all := bytes.TrimRight(usual, "\n")
	if len(all) > 0 {
		all = append(bytes.Clone(all), '\n')
	}
	return append(all, ours...)
}

func encode(certificates []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // to memory: cannot fail
	}
	return text.Bytes()
}

// truststore is the bundle for Java, without a password, encryption or MAC:
// nothing in it is secret, every Java since 8 reads it, whatever password it is
// opened with, and an image's own password or truststore meets none of ours.
func truststore(usual []byte, authorities []*x509.Certificate) ([]byte, error) {
	var entries []pkcs12.TrustStoreEntry
	add := func(kind string, der []byte) {
		sum := sha256.Sum256(der)
		// Java keeps one entry an alias, so subjects, which recur, are no good as such.
		entries = append(entries, pkcs12.TrustStoreEntry{
			Cert: &x509.Certificate{Raw: der}, FriendlyName: kind + "-" + hex.EncodeToString(sum[:16]),
		})
	}
	for block, rest := pem.Decode(usual); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			add("root", block.Bytes)
		}
	}
	for _, c := range authorities {
		add("weir", c.Raw)
	}
	store, err := pkcs12.Passwordless.EncodeTrustStoreEntries(entries, "")
	if err != nil {
		return nil, fmt.Errorf("encoding the Java truststore: %w", err)
	}
	return store, nil
}

// readable has all users enter the directory, which the pod's containers mount.
func readable(dir string) error {
	const enter = 0o555
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			info, err = os.Stat(dir)
		}
	}
	if err != nil || info.Mode().Perm()&enter == enter {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|enter)
}

// replace puts a file in the place of another at once, readable for all users.
func replace(file string, content []byte) error {
	if is, err := os.ReadFile(file); err == nil && bytes.Equal(is, content) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // nothing is left of it after the rename
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
