package link

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// lineage is authorities, the oldest first, as the operator makes them: each
// signed by itself, and by the one before.
type lineage struct {
	roots, crossed []*x509.Certificate
	leaf           *x509.Certificate // of the newest
}

func newLineage(t *testing.T, lives ...time.Duration) lineage {
	t.Helper()
	var l lineage
	var signer *x509.Certificate
	var signerKey *ecdsa.PrivateKey
	make := func(name string, ca bool, life time.Duration, key, by *ecdsa.PrivateKey, parent *x509.Certificate) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: ca, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(life),
		}
		if parent == nil {
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for i, life := range lives {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("authority ", i)
		root := make(name, true, life, key, key, nil)
		if signer != nil {
			l.crossed = append([]*x509.Certificate{make(name, true, life, key, signerKey, signer)}, l.crossed...)
		}
		l.roots = append(l.roots, root)
		signer, signerKey = root, key
	}
	l.leaf = make("leaf", false, time.Hour, signerKey, signerKey, signer)
	return l
}

func (l lineage) chain() []*x509.Certificate {
	return slices.Concat([]*x509.Certificate{l.leaf}, l.crossed)
}

// signs answers every request with a chain.
func (l lineage) signs(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(ruleset.Certificate{Chain: string(encode(l.chain()))})
}

// silent answers nothing until the client goes, which shows once its request is read.
func silent(asked func()) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked()
		<-r.Context().Done()
	}
}

func TestAChainEndsWithWhatThePodsProgramsKnow(t *testing.T) {
	t.Parallel()
	l := newLineage(t, time.Hour, time.Hour, time.Hour)
	expired := newLineage(t, time.Hour, -time.Hour, time.Hour)
	other := newLineage(t, time.Hour)
	for _, c := range []struct {
		reason string
		of     lineage
		known  []*x509.Certificate
		want   int
	}{
		{"the newest: the leaf alone", l, l.roots, 1},
		{"the second", l, l.roots[:2], 2},
		{"the oldest alone", l, l.roots[:1], 3},
		{"one that has expired is as good as unknown", expired, expired.roots[:2], 3},
		{"none: the whole chain", l, nil, 3},
		{"another with the same name", l, other.roots, 3},
	} {
		o := newOperator(t)
		o.certify = c.of.signs
		bootstrap := rules(o.link())
		bootstrap.Authorities = string(encode(c.known))
		got, err := newPod(t, bootstrap, "").Certificate(t.Context(), []byte("request"))
		if err != nil {
			t.Fatalf("%s: %v", c.reason, err)
		}
		if want := encode(c.of.chain()[:c.want]); !bytes.Equal(got, want) {
			t.Errorf("%s: got %d certificates, want %d", c.reason, len(certificates(got)), c.want)
		}
	}
}

func TestCertificatesComeWhileTheLinkIsHeld(t *testing.T) {
	t.Parallel()
	before, after := newOperator(t), newOperator(t)
	l := newLineage(t, time.Hour)
	before.certify, after.certify = l.signs, l.signs
	before.hold, after.hold = deadline, deadline
	r := rules(before.link(), "spotify")
	before.program(r)
	p := newPod(t, r, "")
	if _, err := p.Certificate(t.Context(), nil); err != nil {
		t.Fatalf("before Restore: %v", err)
	}
	p.start()
	before.acknowledged(r.Version)
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			if _, err := p.Certificate(t.Context(), []byte("request")); err != nil {
				t.Error(err)
			}
		})
	}
	moved := rules(after.link(), "spotify")
	after.program(moved)
	before.program(moved)
	asking.Wait()
	after.acknowledged(moved.Version)
	before.set(func(o *operator) { o.certify = nil }) // it would panic
	if _, err := p.Certificate(t.Context(), []byte("request")); err != nil {
		t.Errorf("after the operator has moved: %v", err)
	}
}

func TestWhatTheOperatorReceives(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	var asked ruleset.CertificateRequest
	o.certify = func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		newLineage(t, time.Hour).signs(w, r)
	}
	if _, err := newPod(t, rules(o.link()), "").Certificate(t.Context(), []byte("request")); err != nil {
		t.Fatal(err)
	}
	if string(asked.Request) != "request" {
		t.Errorf("got %q", asked.Request)
	}
}

func TestWhyThereIsNoCertificate(t *testing.T) {
	t.Parallel()
	refusing := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, status) }
	}
	for _, c := range []struct {
		reason  string
		certify http.HandlerFunc
		change  func(*operator, *ruleset.Ruleset)
		says    string
	}{
		{reason: "the operator says what is wrong", certify: refusing(403, "No policy names\nthe host."), says: "403: No policy names the host."},
		{reason: "it says too much", certify: refusing(400, strings.Repeat("x", 1<<20)), says: strings.Repeat("x", maxSentence)},
		{reason: "it fails", certify: refusing(503, ""), says: "503"},
		{reason: "the token is not accepted", change: func(o *operator, _ *ruleset.Ruleset) { o.token = "second" }, says: "401"},
		{reason: "it answers without end", certify: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxCertificate+1)) }, says: "more than"},
		{reason: "it answers with something else", certify: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("sesame")) }, says: "not JSON"},
		{reason: "it answers with nothing", certify: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, says: "holds none"},
		{reason: "it leads elsewhere", certify: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
		}, says: "307"},
		{reason: "it does not answer", certify: silent(func() {}), says: "deadline"},
		{reason: "it is another", change: func(_ *operator, r *ruleset.Ruleset) { _, r.Link.CABundle = selfSigned(t) }, says: "certificate"},
		{reason: "its address is none", change: func(_ *operator, r *ruleset.Ruleset) { r.Link.Address = "operator" }, says: "host:port"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			o.certify = c.certify
			bootstrap := rules(o.link())
			if c.change != nil {
				c.change(o, bootstrap)
			}
			p := newPod(t, bootstrap, "")
			if c.says == "deadline" {
				p.limits.certificate = 10 * time.Millisecond
			}
			chain, err := p.Certificate(t.Context(), []byte("request"))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %q and error %v, want an error with %q", chain, err, c.says)
			}
			if len(err.Error()) > maxSentence+200 || strings.Contains(err.Error(), "first") {
				t.Errorf("the error is too long, or has the token: %v", err)
			}
		})
	}
}

func TestNobodyWaitsForACertificateLongerThanAsked(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	ctx, cancel := context.WithCancel(t.Context())
	o.certify = silent(cancel)
	if _, err := newPod(t, rules(o.link()), "").Certificate(ctx, nil); err == nil {
		t.Error("want an error")
	}
}

func TestANudgeReportsAtOnce(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.hold = deadline
	r := rules(o.link(), "spotify")
	o.program(r)
	p := newPod(t, r, "")
	p.blind = []string{"spotify"}
	p.Nudge() // before there is anything to give up
	p.start()
	if got := o.acknowledged(r.Version); !slices.Equal(got.NotIntercepting, p.blind) {
		t.Errorf("the first report says of interception %q, want spotify", got.NotIntercepting)
	}
	for _, blind := range [][]string{nil, {"spotify", "steam"}} {
		p.mu.Lock()
		p.blind = blind
		p.mu.Unlock()
		p.Nudge()
		got := o.report("says what changed", func(r ruleset.Report) bool { return slices.Equal(r.NotIntercepting, blind) })
		if got.Version != r.Version || !slices.Equal(got.Enforcing, r.Refs()) {
			t.Errorf("got %+v, want the rest as before", got)
		}
	}
	if got := o.count(); got != 3 {
		t.Errorf("asked %d times, want once and for each of two nudges", got)
	}
	if logs := p.logs.String(); strings.Contains(logs, "level=WARN") {
		t.Errorf("a nudge is no trouble of the link:\n%s", logs)
	}
}

func TestANudgeDoesNotHideAnOperatorThatIsAway(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	r := rules(o.link(), "spotify")
	o.stop()
	p := newPod(t, r, "")
	p.start()
	for range 3 {
		p.Nudge()
	}
	eventually(t, "the link counts as broken", func() bool { return strings.Contains(p.logs.String(), "no link to the operator") })
	if strings.Contains(p.logs.String(), "the link to the operator works") {
		t.Errorf("a nudge was taken for an answer:\n%s", p.logs)
	}
}
