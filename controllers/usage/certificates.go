package usage

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/access"
)

// Where API servers publish by whose authority their users' certificates are. The
// built-in Role extension-apiserver-authentication-reader allows to read it.
const (
	authenticationConfigMap = "extension-apiserver-authentication"
	clientCAKey             = "client-ca-file"
)

const (
	// authoritiesInterval is how often that is read.
	authoritiesInterval = time.Minute
	// maxChainBytes bounds what is kept of a client that shows certificates.
	maxChainBytes = 16 << 10
)

// ClientAuthorities are those that the API server accepts users' certificates of.
// It is a manager.Runnable that every replica runs. A nil one knows none.
type ClientAuthorities struct {
	reader client.Reader
	logger logr.Logger

	mu    sync.Mutex
	text  string
	roots *x509.CertPool // nil: not known
	last  string         // what was logged last
}

// NewClientAuthorities reads with a client that has no cache, once it is started.
func NewClientAuthorities(reader client.Reader, logger logr.Logger) *ClientAuthorities {
	return &ClientAuthorities{reader: reader, logger: logger}
}

// NeedLeaderElection is false: every replica answers people.
func (*ClientAuthorities) NeedLeaderElection() bool { return false }

// Start reads until ctx ends.
func (a *ClientAuthorities) Start(ctx context.Context) error {
	ticker := time.NewTicker(authoritiesInterval)
	defer ticker.Stop()
	for {
		a.Refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Refresh reads once. What cannot be read, or holds nothing, changes nothing.
func (a *ClientAuthorities) Refresh(ctx context.Context) {
	found := &corev1.ConfigMap{}
	err := a.reader.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: authenticationConfigMap}, found)
	a.mu.Lock()
	defer a.mu.Unlock()
	says := ""
	switch text := found.Data[clientCAKey]; {
	case ctx.Err() != nil:
		return
	case err != nil && !apierrors.IsNotFound(err):
		says = err.Error()
	case text == "":
		says = "the API server publishes no client-ca-file"
	case text != a.text:
		if roots := x509.NewCertPool(); roots.AppendCertsFromPEM([]byte(text)) {
			a.text, a.roots = text, roots
		} else {
			says = "client-ca-file holds no certificate"
		}
	}
	if says != a.last && says != "" {
		a.logger.Info("client certificates are accepted as before, tokens are: the authorities of users' certificates cannot be read from ConfigMap "+
			metav1.NamespaceSystem+"/"+authenticationConfigMap, "reason", says)
	}
	a.last = says
}

// VerifyPeer is a tls.Config's VerifyPeerCertificate, of one that asks for client
// certificates and requires none. It refuses what the API server would, so that
// nobody has us keep certificates who has none of the cluster's.
func (a *ClientAuthorities) VerifyPeer(chain [][]byte, _ [][]*x509.Certificate) error {
	if len(chain) == 0 {
		return nil
	}
	var bytes int
	var certificates []*x509.Certificate
	for _, raw := range chain {
		if bytes += len(raw); bytes > maxChainBytes {
			return fmt.Errorf("the client's certificates have more than %d bytes", maxChainBytes)
		}
		certificate, err := x509.ParseCertificate(raw)
		if err != nil {
			return err
		}
		certificates = append(certificates, certificate)
	}
	if err := a.verify(certificates); !errors.Is(err, errNoAuthorities) {
		return err
	}
	return nil // who has a token, too, may use it
}

var errNoAuthorities = errors.New("no authorities of client certificates are known")

func (a *ClientAuthorities) verify(chain []*x509.Certificate) error {
	if a == nil {
		return errNoAuthorities
	}
	a.mu.Lock()
	roots := a.roots
	a.mu.Unlock()
	if roots == nil {
		return errNoAuthorities
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, certificate := range chain[1:] {
		options.Intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(options)
	return err
}

// subject of a certificate, as the API server reads it. TLS has shown that the
// client has its key.
func (a *ClientAuthorities) subject(chain []*x509.Certificate) (*access.User, error) {
	// A connection may be older than what is known now, or the certificate over.
	if err := a.verify(chain); err != nil || chain[0].Subject.CommonName == "" {
		return nil, access.ErrUnauthenticated
	}
	return &access.User{
		Username: chain[0].Subject.CommonName,
		Groups:   slices.Concat(chain[0].Subject.Organization, []string{"system:authenticated"}),
	}, nil
}
