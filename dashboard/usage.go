package dashboard

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/controllers/usage"
)

// written is an answer of the usage API, within this program.
type written struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *written) Header() http.Header         { return w.header }
func (w *written) WriteHeader(status int)      { w.status = status }
func (w *written) Write(p []byte) (int, error) { return w.body.Write(p) }

// askUsage asks the usage API in the visitor's name: it decides who may. An error
// is a sentence of the API's.
func (s *Server) askUsage(ctx context.Context, v *visitor, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(usage.As(ctx, v.user), method, path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	w := &written{header: http.Header{}, status: http.StatusOK}
	s.o.Usage.ServeHTTP(w, r)
	if w.status != http.StatusOK {
		var said usage.Problem
		if json.Unmarshal(w.body.Bytes(), &said) != nil || said.Detail == "" {
			said.Detail = "The usage API gave no answer."
		}
		return problem(w.status, "%s", said.Detail)
	}
	return json.Unmarshal(w.body.Bytes(), into)
}

// policyPath is the API's path of the policy that a request's names.
func policyPath(r *http.Request) string {
	return usage.Prefix + url.PathEscape(r.PathValue("namespace")) + "/" + url.PathEscape(r.PathValue("name"))
}

// In forms callers are named by base64: their names may have characters that are
// not shown as they are.
func encodeIdentity(identity string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(identity))
}

func identityOf(r *http.Request) (string, error) {
	if name := r.PostFormValue("name"); name != "" {
		return name, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(r.PostFormValue("caller"))
	if err != nil || !r.PostForm.Has("caller") {
		return "", problem(http.StatusBadRequest, "The form names no caller.")
	}
	return string(raw), nil
}

func (s *Server) resetCaller(ctx context.Context, v *visitor, r *http.Request) (said, next string, err error) {
	identity, err := identityOf(r)
	if err != nil {
		return "", "", err
	}
	var left usage.Usage
	if err := s.askUsage(ctx, v, http.MethodPost, policyPath(r)+"/resets", usage.Caller{Identity: &identity}, &left); err != nil {
		return "", "", err
	}
	return "The caller's windows are empty: all of its quota is free.", back(r, policyPage(r)), nil
}

func (s *Server) grantCaller(ctx context.Context, v *visitor, r *http.Request) (said, next string, err error) {
	identity, err := identityOf(r)
	if err != nil {
		return "", "", err
	}
	requests, err := strconv.ParseInt(r.PostFormValue("requests"), 10, 32)
	length, lengthErr := time.ParseDuration(r.PostFormValue("for"))
	if err != nil || lengthErr != nil {
		return "", "", problem(http.StatusBadRequest, "A grant is so many requests, like 50, for so long, like 2h.")
	}
	wanted := usage.GrantRequest{Identity: &identity, Requests: int32(requests), For: &metav1.Duration{Duration: length}, Reason: r.PostFormValue("reason")}
	var granted usage.Grant
	if err := s.askUsage(ctx, v, http.MethodPost, policyPath(r)+"/grants", wanted, &granted); err != nil {
		return "", "", err
	}
	return fmt.Sprintf("Granted %d requests more in each window until %s.", granted.Requests, granted.Until.UTC().Format("2006-01-02 15:04:05 UTC")), back(r, policyPage(r)), nil
}

// policyPage is the address of a policy's view.
func policyPage(r *http.Request) string {
	return "/limits/" + url.PathEscape(r.PathValue("namespace")) + "/" + url.PathEscape(r.PathValue("name"))
}
