package check

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/injection"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// operator plays the webhook and the link.
type operator struct {
	patch      string
	denied     bool
	linkStatus int
}

func (o operator) start(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+injection.WebhookPath, func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request.DryRun == nil || !*review.Request.DryRun {
			t.Errorf("want an AdmissionReview of a dry run, got %+v, %v", review.Request, err)
		}
		review.Response = &admissionv1.AdmissionResponse{Allowed: !o.denied, Patch: []byte(o.patch)}
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("POST "+ruleset.LinkPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(o.linkStatus) })
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	return server
}

func good() operator {
	return operator{patch: `[{"op":"add","path":"/spec/initContainers","value":[{"name":"` + v1alpha1.SidecarContainer + `"}]}]`, linkStatus: http.StatusUnauthorized}
}

func TestRunSaysWhatWorksAndWhatDoesNot(t *testing.T) {
	t.Parallel()
	const works = "ok: the store answers\nok: the webhook injects\nok: the link asks who calls\n"
	redis := redistest.Start(t).URL()
	injectsNothing, refuses, open := good(), good(), good()
	injectsNothing.patch, refuses.denied, open.linkStatus = "[]", true, http.StatusOK
	for name, test := range map[string]struct {
		operator operator
		store    string
		distrust bool
		fails    string // in the error; empty: nothing does
	}{
		"all is well":                     {operator: good(), store: redis},
		"no sidecar in the answer":        {operator: injectsNothing, store: redis, fails: "without one"},
		"a webhook that refuses":          {operator: refuses, store: redis, fails: "refuses a pod"},
		"a link that asks for no token":   {operator: open, store: redis, fails: "401 is due"},
		"a Redis that is not there":       {operator: good(), store: "redis://127.0.0.1:1", fails: "the store answers"},
		"certificates of somebody else's": {operator: good(), store: redis, distrust: true, fails: "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := test.operator.start(t)
			roots := x509.NewCertPool()
			if !test.distrust {
				roots.AddCert(server.Certificate())
			}
			var out strings.Builder
			err := Run(t.Context(), Options{
				Webhook: server.URL, Link: server.URL, Roots: roots, Patience: time.Millisecond,
				Store: ruleset.Store{URL: test.store, TimeoutMillis: 5000},
			}, &out)
			switch {
			case test.fails == "" && (err != nil || out.String() != works):
				t.Fatalf("want all parts to work, got %v and\n%s", err, &out)
			case test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)):
				t.Fatalf("want an error with %q, got %v", test.fails, err)
			}
		})
	}
}

func TestAPartIsAskedAgainUntilItAnswersWell(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	err := until(t.Context(), time.Minute, func(ctx context.Context) error { return asksWho(ctx, server.Client(), server.URL) })
	if err != nil || asked != 2 {
		t.Fatalf("want success at the second time, got %v after %d", err, asked)
	}
}

func TestMainSaysWhatToGiveIt(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := good().start(t).Certificate()
	authority := write("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	for want, arguments := range map[string][]string{
		"--authority-file":      {"--store-url-file=" + write("url", []byte("redis://x"))},
		"holds no PEM":          {"--authority-file=" + write("empty", nil)},
		"absent or empty":       {"--authority-file=" + authority, "--store-url-file=" + filepath.Join(folder, "none")},
		"flag provided but not": {"--authority=" + authority},
	} {
		var out bytes.Buffer
		if code := Main(t.Context(), arguments, &out); code != 1 || !strings.Contains(out.String(), want) {
			t.Errorf("check %v: want exit code 1 and %q, got %d and\n%s", arguments, want, code, &out)
		}
	}
}
