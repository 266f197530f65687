package link

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"github.com/go-logr/logr"

	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// settingsInterval is how often the files are read. The kubelet takes longer to
// bring an edited Secret into them.
const settingsInterval = 2 * time.Second

// maxSettingBytes bounds a file.
const maxSettingBytes = 256 << 10

// Settings reads what is the same for all sidecars (the store from mounted
// files, the link's authorities from the certificates) and passes every change
// on. It is a manager.Runnable that every replica runs.
type Settings struct {
	// StoreURLFile holds the URL of Redis: see ruleset.Store. While it is
	// absent or empty, sidecars have no store and do what onStoreFailure says.
	StoreURLFile string
	// StoreCAFile holds PEM to verify a rediss:// server with; optional.
	StoreCAFile string
	// StoreInsecureSkipVerify turns that verification off.
	StoreInsecureSkipVerify bool
	// StoreTimeout bounds one decision of a sidecar.
	StoreTimeout time.Duration
	// HostRootsFile holds PEM to verify intercepted hosts with, beside the usual
	// roots; optional.
	HostRootsFile string
	// Tracing of requests by sidecars; nil: none.
	Tracing *ruleset.Tracing
	// LinkAddress is the host:port that sidecars reach the link at.
	LinkAddress string
	// CABundle is the PEM to verify the link with.
	CABundle func() []byte
	Rulesets *Rulesets
	Logger   logr.Logger

	roots     string // of HostRootsFile, when it was last readable
	complaint string // logged last
}

// NeedLeaderElection is false: every replica answers sidecars.
func (*Settings) NeedLeaderElection() bool { return false }

// Start passes changes on until ctx ends.
func (s *Settings) Start(ctx context.Context) error {
	ticker := time.NewTicker(settingsInterval)
	defer ticker.Stop()
	for {
		s.Refresh()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Refresh reads everything once. What cannot be read leaves its settings as
// they were, and is logged once.
func (s *Settings) Refresh() {
	store, err := s.store()
	broken := err != nil
	if roots, rootsErr := s.hostRoots(); rootsErr == nil {
		s.roots = roots
	} else {
		err = errors.Join(err, rootsErr)
	}
	if err != nil && s.complaint != err.Error() {
		s.Logger.Error(err, "the settings of sidecars stay as they were")
		s.complaint = err.Error()
	}
	if broken {
		return
	}
	if store == nil && s.complaint == "" {
		s.complaint = "no store"
		s.Logger.Info("there is no store's URL: until there is, sidecars do what onStoreFailure says", "file", s.StoreURLFile)
	}
	if store != nil && err == nil {
		s.complaint = ""
	}
	s.Rulesets.Configure(programming.Settings{
		Store: store, HostRoots: s.roots, Tracing: s.Tracing,
		Link: ruleset.Link{Address: s.LinkAddress, CABundle: string(s.CABundle())},
	})
}

// hostRoots are empty while there is no file. Text without a certificate is an
// error here, as every sidecar would refuse it, and the rules with it.
func (s *Settings) hostRoots() (string, error) {
	roots, err := ReadSetting(s.HostRootsFile)
	if err != nil {
		return "", fmt.Errorf("reading the authorities of intercepted hosts: %w", err)
	}
	if roots != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(roots)) {
		return "", fmt.Errorf("reading the authorities of intercepted hosts: %s holds no PEM certificate", s.HostRootsFile)
	}
	return roots, nil
}

// store is nil while there is no URL.
func (s *Settings) store() (*ruleset.Store, error) {
	address, err := ReadSetting(s.StoreURLFile)
	if err != nil {
		return nil, fmt.Errorf("reading the store's URL: %w", err)
	}
	authorities, err := ReadSetting(s.StoreCAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities of the store's certificate: %w", err)
	}
	if address == "" {
		return nil, nil
	}
	// A sidecar could only refuse it. The error of url.Parse would show the password.
	if parsed, err := url.Parse(address); err != nil || parsed.Host == "" || (parsed.Scheme != "redis" && parsed.Scheme != "rediss") {
		return nil, errors.New("the store's URL is not redis://[user:password@]host:port[/db], or rediss:// for TLS")
	}
	return &ruleset.Store{
		URL: address, CABundle: authorities, InsecureSkipVerify: s.StoreInsecureSkipVerify,
		TimeoutMillis: s.StoreTimeout.Milliseconds(),
	}, nil
}

// ReadSetting is a file's text without surrounding white space; empty when
// there is no such file, as with a Secret that is mounted as optional.
func ReadSetting(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if info.Size() > maxSettingBytes {
		return "", fmt.Errorf("%s has %d bytes, at most %d are read", file, info.Size(), maxSettingBytes)
	}
	text, err := os.ReadFile(file)
	return string(bytes.TrimSpace(text)), err
}
