package link

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// maxCertificate bounds an answer in bytes: ten certificates of 3 KiB in PEM.
	maxCertificate = 128 << 10
	// maxSentence bounds what is repeated of the operator's refusal, in bytes.
	maxSentence = 512
	// leafConnections bounds the requests for certificates at one time.
	leafConnections = 2
	pemCertificate  = "CERTIFICATE"
)

// leaves ask for certificates, apart from the request that is held.
type leaves struct {
	// known are the authorities of the Bootstrap.
	known []*x509.Certificate

	mu   sync.Mutex
	link ruleset.Link // that http was made for
	http *http.Client
}

// Certificate has the operator sign a certificate request, PKCS #10 in DER, and
// returns the chain in PEM: the leaf, and the authorities between it and the
// newest that the pod's programs know since they began. What is above that one
// is left out: GnuTLS would follow the chain to its end, and hold the leaf to
// constraints that need not concern it.
//
// It may be called while Run runs, by several goroutines. An error says nothing
// of the certificates that there are already.
func (c *Client) Certificate(ctx context.Context, request []byte) (chain []byte, err error) {
	c.mu.Lock()
	reach := c.reach
	c.mu.Unlock()
	client, err := c.leaves.dialFor(reach)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.certificate)
	defer cancel()
	question, err := c.post(ctx, reach, ruleset.CertificatePath, ruleset.CertificateRequest{Request: request})
	if err != nil {
		return nil, err
	}
	response, err := client.Do(question)
	if err != nil {
		return nil, fmt.Errorf("asking the operator for a certificate: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxCertificate+1))
	switch {
	case response.StatusCode != http.StatusOK:
		// The next request may reach another replica of the operator.
		client.CloseIdleConnections()
		return nil, fmt.Errorf("asking the operator for a certificate: it answered %d: %s", response.StatusCode, sentence(body))
	case err != nil:
		return nil, fmt.Errorf("reading the operator's certificate: %w", err)
	case len(body) > maxCertificate:
		return nil, fmt.Errorf("reading the operator's certificate: it has more than %d bytes", maxCertificate)
	}
	var answer ruleset.Certificate
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, errors.New("reading the operator's certificate: it is not JSON")
	}
	certs := certificates([]byte(answer.Chain))
	if len(certs) == 0 {
		return nil, errors.New("reading the operator's certificate: it holds none")
	}
	return encode(shorten(certs, c.leaves.known, time.Now())), nil
}

// dialFor makes the HTTP client anew when the operator's address or authorities
// are others than before. Who uses the old one still may.
func (l *leaves) dialFor(link ruleset.Link) (*http.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.http != nil && l.link == link {
		return l.http, nil
	}
	client, err := dial(link, leafConnections)
	if err != nil {
		return nil, err
	}
	if l.http != nil {
		l.http.CloseIdleConnections()
	}
	l.link, l.http = link, client
	return client, nil
}

// shorten ends a chain with the first certificate that a known authority has
// signed.
func shorten(chain, known []*x509.Certificate, now time.Time) []*x509.Certificate {
	for i, cert := range chain {
		if slices.ContainsFunc(known, func(k *x509.Certificate) bool {
			return now.Before(k.NotAfter) && bytes.Equal(k.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(k) == nil
		}) {
			return chain[:i+1]
		}
	}
	return chain
}

// certificates reads PEM, and ignores what it cannot.
func certificates(text []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return certs
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == pemCertificate {
			certs = append(certs, cert)
		}
	}
}

func encode(certs []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, cert := range certs {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw}))
	}
	return text.Bytes()
}

// sentence is what an answer says, on one line.
func sentence(body []byte) string {
	return strings.Join(strings.Fields(clip(string(body), maxSentence)), " ")
}
