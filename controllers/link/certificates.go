package link

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/lru"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	maxRequestBytes = 16 << 10
	maxNames        = 16
	// policyPatience is how long the cache may take to learn of a policy that
	// the sidecar has from another replica.
	policyPatience = time.Second
	// signPatience bounds the making of an authority that is missing.
	signPatience = 5 * time.Second
	// A pod may have so many leaves a second, and so many at once; as many pods
	// are remembered.
	leavesPerSecond = 10
	leavesAtOnce    = 50
	maxAsking       = 32768
)

// serveCertificate signs a leaf: see ruleset.CertificatePath.
func (s *Server) serveCertificate(w http.ResponseWriter, r *http.Request, from caller) {
	if from.uid == "" {
		refuse(w, http.StatusForbidden, "The token of "+from.username+" is not bound to a pod: only a pod's own projected token may ask.")
		return
	}
	if !s.allowance.take(from.uid) {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, fmt.Sprintf("A pod may ask for %d certificates a second.", leavesPerSecond))
		return
	}
	asked, status, err := readCertificateRequest(w, r)
	if err != nil {
		refuse(w, status, err.Error())
		return
	}
	rung, hangUp := s.options.Rulesets.listen(from.pod)
	defer hangUp()
	if err := s.admitPod(r.Context(), from, rung); err != nil {
		refuse(w, http.StatusForbidden, err.Error())
		return
	}
	current, outside, err := s.covering(r.Context(), from, asked.names, rung)
	if err == nil && outside != "" {
		refuse(w, http.StatusForbidden, fmt.Sprintf("No policy that intercepts and selects pod %s names the host %q.", from.pod, outside))
		return
	}
	var chain []byte
	if err == nil {
		signing, cancel := context.WithTimeout(r.Context(), signPatience)
		defer cancel()
		chain, err = s.options.Rulesets.authorities.Sign(signing, from.pod.Namespace, current.domains, asked.names, asked.key)
	}
	if err != nil {
		s.options.Logger.Error(err, "cannot sign a certificate to intercept with", "namespace", from.pod.Namespace, "pod", from.pod.Name)
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "The certificate cannot be signed now. Try again.")
		return
	}
	s.metrics.certificates.Inc()
	boundWrite(w)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(ruleset.Certificate{Chain: string(chain)}) // a sidecar that is gone asks again
}

// covering waits a little until policies that intercept and select the pod
// cover all names, and says which name they do not.
func (s *Server) covering(ctx context.Context, from caller, names []string, rung <-chan struct{}) (current *answer, outside string, err error) {
	waiting, cancel := context.WithTimeout(ctx, policyPatience)
	defer cancel()
	for {
		var pod *corev1.Pod
		if pod, err = s.podOf(ctx, from); err != nil {
			return nil, "", err
		}
		if current, err = s.options.Rulesets.of(ctx, pod); err != nil {
			return nil, "", err
		}
		if outside = uncovered(current.hosts, names); outside == "" {
			return current, "", nil
		}
		select {
		case <-rung:
		case <-waiting.Done():
			return nil, outside, nil
		}
	}
}

// uncovered is the first name that none of the hosts covers: the host itself,
// or any name below the domain of a pattern "*.".
func uncovered(hosts, names []string) string {
	for _, name := range names {
		if !slices.ContainsFunc(hosts, func(host string) bool { return covers(host, name) }) {
			return name
		}
	}
	return ""
}

func covers(host, name string) bool {
	if host == name {
		return true
	}
	domain, isPattern := strings.CutPrefix(host, "*")
	// What stands for many names is signed only as a policy has it.
	return isPattern && !strings.HasPrefix(name, "*") && strings.HasSuffix(name, domain)
}

// leafRequest is what a sidecar asks for: lower-case names, and the key that it
// keeps.
type leafRequest struct {
	names []string
	key   crypto.PublicKey
}

// readCertificateRequest reads a bounded body in bounded time.
func readCertificateRequest(w http.ResponseWriter, r *http.Request) (asked leafRequest, status int, err error) {
	boundRead(w) // its token's review may have taken long
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return asked, http.StatusRequestEntityTooLarge, fmt.Errorf("The request is larger than %d bytes.", maxRequestBytes) //nolint:staticcheck // a sentence of an answer
	}
	var request ruleset.CertificateRequest
	if err == nil {
		err = json.Unmarshal(body, &request)
	}
	if err != nil {
		return asked, http.StatusBadRequest, errors.New("The body is not a certificate request in JSON.") //nolint:staticcheck // a sentence of an answer
	}
	if asked, err = parseCertificateRequest(request.Request); err != nil {
		return asked, http.StatusBadRequest, err
	}
	return asked, 0, nil
}

// parseCertificateRequest reads a PKCS #10 request, of which only the key and
// the DNS names count. Its errors are sentences of an answer.
func parseCertificateRequest(der []byte) (leafRequest, error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return leafRequest{}, errors.New("The request is not PKCS #10 in DER.") //nolint:staticcheck // a sentence of an answer
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return leafRequest{}, errors.New("The request's key is not ECDSA on curve P-256.") //nolint:staticcheck // a sentence of an answer
	}
	if request.CheckSignature() != nil {
		return leafRequest{}, errors.New("The request is not signed with its own key.") //nolint:staticcheck // a sentence of an answer
	}
	if len(request.IPAddresses)+len(request.EmailAddresses)+len(request.URIs) > 0 {
		return leafRequest{}, errors.New("The request is for something else than DNS names.") //nolint:staticcheck // a sentence of an answer
	}
	if len(request.DNSNames) == 0 || len(request.DNSNames) > maxNames {
		return leafRequest{}, fmt.Errorf("The request is for %d DNS names: 1 to %d are expected.", len(request.DNSNames), maxNames) //nolint:staticcheck // a sentence of an answer
	}
	asked := leafRequest{key: key}
	for _, name := range request.DNSNames {
		name = strings.ToLower(name)
		if !isName(name) {
			return leafRequest{}, errors.New("The request is for what is not a host's DNS name.") //nolint:staticcheck // a sentence of an answer
		}
		asked.names = append(asked.names, name)
	}
	return asked, nil
}

// isName says whether a name is a host's, or a pattern "*." of hosts', in lower
// case. An underscore is no host's (RFC 1123), but some clients ask for it.
func isName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(name, "*."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// allowance is what pods may still ask for. A pod that has been forgotten among
// very many begins anew.
type allowance struct{ pods *lru.Cache }

func newAllowance() *allowance { return &allowance{pods: lru.New(maxAsking)} }

func (a *allowance) take(pod types.UID) bool {
	limiter, known := a.pods.Get(pod)
	if !known {
		// Two requests at once may both make one: then the later counts.
		limiter = flowcontrol.NewTokenBucketPassiveRateLimiter(leavesPerSecond, leavesAtOnce)
		a.pods.Add(pod, limiter)
	}
	return limiter.(flowcontrol.PassiveRateLimiter).TryAccept()
}
