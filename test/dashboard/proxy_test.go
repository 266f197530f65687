package dashboard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	made := a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.certificate, a.key = made.Leaf, made.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// sign a certificate of an hour, unless the template says another end; without a key
// of its own the authority signs itself.
func (a *authority) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "proxy"}
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.certificate, a.key
	if signer == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) client(t *testing.T) tls.Certificate {
	t.Helper()
	return a.sign(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func (a *authority) server(t *testing.T) tls.Certificate {
	t.Helper()
	return a.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

// writePEM writes certificates and keys.
func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func TestUsersOfAProxyWithACertificate(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	folder := t.TempDir()
	serving := ours.server(t)
	key, err := x509.MarshalPKCS8PrivateKey(serving.PrivateKey)
	must(t, err)
	writePEM(t, folder+"/tls.crt", "CERTIFICATE", serving.Certificate[0])
	writePEM(t, folder+"/tls.key", "PRIVATE KEY", key)
	writePEM(t, folder+"/proxies.crt", "CERTIFICATE", ours.certificate.Raw)
	w := newWorld(t, "--tls-cert-file", folder+"/tls.crt", "--tls-key-file", folder+"/tls.key",
		"--forwarded-user-header", "X-Forwarded-User", "--forwarded-groups-header", "X-Forwarded-Groups", "--forwarded-client-ca-file", folder+"/proxies.crt")
	w.apply(objects)
	for _, binding := range []struct {
		role    string
		rule    rbacv1.PolicyRule
		subject rbacv1.Subject
	}{
		{"sees", rbacv1.PolicyRule{Resources: []string{"periodictasks"}, Verbs: []string{"list"}}, rbacv1.Subject{Kind: rbacv1.UserKind, Name: "ada"}},
		{"runs", rbacv1.PolicyRule{Resources: []string{"periodictasks/runs"}, Verbs: []string{"get", "create"}}, rbacv1.Subject{Kind: rbacv1.GroupKind, Name: "runners"}},
	} {
		binding.rule.APIGroups = []string{"weir.dev"}
		meta := metav1.ObjectMeta{Namespace: "bondhu", Name: binding.role}
		must(t, w.client.Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{binding.rule}}))
		must(t, w.client.Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: meta, Subjects: []rbacv1.Subject{binding.subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: binding.role},
		}))
	}
	page, err := url.Parse(strings.Replace(w.page, "http:", "https:", 1))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ours.certificate)
	as := func(certificates ...tls.Certificate) *http.Transport {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certificates) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certificates[0], nil // whatever authorities are asked for
		}
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	}

	proxy := httptest.NewServer(&httputil.ReverseProxy{Transport: as(ours.client(t)), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(page)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("X-Forwarded-User", "ada")
		r.Out.Header.Set("X-Forwarded-Groups", "staff, runners, system:masters")
	}})
	t.Cleanup(proxy.Close)
	w.page = proxy.URL
	b := w.browser(t)
	t.Run("sees and does what is hers", func(t *testing.T) {
		b.open("/schedules")
		b.sees("ada")
		b.sees("hourly-sentiment")
		b.sees("Live")
		b.open("/limits")
		b.sees("No service is limited where you may look.") // the group system:masters was not believed
		b.open("/schedules/bondhu/hourly-sentiment")
		b.press("Run now")
		b.sees("Enqueued debug_task on personality.")
	})
	t.Run("is nobody else by a header of her own", func(t *testing.T) {
		call(b, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: network.Headers{"X-Forwarded-User": "root", "X-Forwarded-Groups": "system:masters"}})
		b.open("/limits")
		b.sees("ada")
		b.sees("No service is limited where you may look.")
		b.seesNot("root")
	})

	ask := func(transport *http.Transport, method, path string, header map[string]string) (int, error) {
		request, err := http.NewRequestWithContext(t.Context(), method, page.String()+path, nil)
		must(t, err)
		for name, value := range header {
			request.Header.Set(name, value)
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			return 0, err
		}
		return answer.StatusCode, answer.Body.Close()
	}
	ada := map[string]string{"X-Forwarded-User": "ada", "X-Forwarded-Groups": "runners"}
	t.Run("a proxy is believed", func(t *testing.T) {
		if status, err := ask(as(ours.client(t)), "GET", "/schedules", ada); status != http.StatusOK {
			t.Errorf("its user gets %d, error %v", status, err)
		}
		if status, err := ask(as(ours.client(t)), "POST", "/schedules/bondhu/hourly-sentiment/run", ada); status != http.StatusForbidden {
			t.Errorf("its user acts without the page's form: %d, error %v", status, err)
		}
	})
	t.Run("forgeries are refused", func(t *testing.T) {
		expired := ours.sign(t, &x509.Certificate{NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		for what, try := range map[string]struct {
			transport *http.Transport
			header    map[string]string
		}{
			"no certificate":                    {as(), ada},
			"a secret that was never agreed on": {as(), map[string]string{"X-Forwarded-User": "ada", "X-Weir-Proxy-Secret": ""}},
			"nobody is named":                   {as(ours.client(t)), nil},
			"one of Kubernetes' own":            {as(ours.client(t)), map[string]string{"X-Forwarded-User": "system:admin"}},
		} {
			for _, path := range []string{"/schedules", "/tasks", "/limits/bondhu/spotify"} {
				if status, err := ask(try.transport, "GET", path, try.header); status != http.StatusUnauthorized {
					t.Errorf("%s: %s gives %d, error %v", what, path, status, err)
				}
			}
			if status, err := ask(try.transport, "POST", "/schedules/bondhu/hourly-sentiment/run", try.header); status != http.StatusUnauthorized {
				t.Errorf("%s: an action gives %d, error %v", what, status, err)
			}
		}
		for what, certificate := range map[string]tls.Certificate{
			"another authority's":  theirs.client(t),
			"its own":              (&authority{}).client(t),
			"one that has expired": expired,
			"a server's":           ours.server(t),
		} {
			if status, err := ask(as(certificate), "GET", "/schedules", ada); err == nil {
				t.Errorf("%s certificate is answered with %d", what, status)
			}
		}
	})
}
