package integration

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/limiter"
	sidecarlink "github.com/weir-dev/weir/sidecar/link"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// createPod makes a pod, with a sidecar's container or without.
func createPod(namespace, name string, labels map[string]string, withSidecar bool) *corev1.Pod {
	GinkgoHelper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{ServiceAccountName: "default", Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	if withSidecar {
		pod.Spec.InitContainers = []corev1.Container{{
			Name: v1alpha1.SidecarContainer, Image: "sidecar", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
		}}
	}
	Expect(k8sClient.Create(ctx, pod)).To(Succeed())
	return pod
}

func deletePod(pod *corev1.Pod) {
	GinkgoHelper()
	Expect(k8sClient.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
}

// tokenOf asks for a token as the kubelet does; pod is nil for one that is
// bound to no pod.
func tokenOf(namespace, account, audience string, pod *corev1.Pod) string {
	GinkgoHelper()
	request := &authenticationv1.TokenRequest{}
	if audience != "" { // else the API server's own
		request.Spec.Audiences = []string{audience}
	}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	Expect(k8sClient.SubResource("token").Create(ctx, owner, request)).To(Succeed())
	return request.Status.Token
}

func tokenFile(token string) string {
	GinkgoHelper()
	file := filepath.Join(GinkgoT().TempDir(), "token")
	Expect(os.WriteFile(file, []byte(token), 0o600)).To(Succeed())
	return file
}

// sidecar is a real link client that plays the sidecar of a pod.
type sidecar struct {
	*sidecarlink.Client
	mu      sync.Mutex
	applied *ruleset.Ruleset
	at      time.Time
	blind   []string
	limiter *limiter.Limiter // nil: its store answers
	log     journal
}

// journal is what a sidecar logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Write(line)
	return GinkgoWriter.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// startSidecar connects a pod to a replica of the operator until the test ends.
func startSidecar(pod *corev1.Pod, to *replica) *sidecar {
	GinkgoHelper()
	return startStamped(pod, &ruleset.Ruleset{Namespace: pod.Namespace, Link: to.link})
}

// startStamped is startSidecar for a pod that began with a Ruleset.
func startStamped(pod *corev1.Pod, stamped *ruleset.Ruleset) *sidecar {
	GinkgoHelper()
	s := &sidecar{}
	linkClient, err := sidecarlink.New(sidecarlink.Config{
		Bootstrap:       stamped,
		Apply:           s.apply,
		NotIntercepting: s.notIntercepting,
		StoreAway:       s.storeAway,
		TokenFile:       tokenFile(tokenOf(pod.Namespace, "default", ruleset.Audience, pod)),
		StateDir:        GinkgoT().TempDir(),
		Registerer:      prometheus.NewRegistry(),
		Logger:          slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	Expect(err).NotTo(HaveOccurred())
	s.Client = linkClient
	linkClient.Restore()
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); linkClient.Run(running) }()
	DeferCleanup(func() { stop(); <-ended })
	return s
}

func (s *sidecar) apply(r *ruleset.Ruleset) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.at = r, time.Now()
	return nil
}

// is says what the pod cannot intercept from now on.
func (s *sidecar) is(blind ...string) {
	s.mu.Lock()
	s.blind = blind
	s.mu.Unlock()
	s.Nudge()
}

func (s *sidecar) notIntercepting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blind
}

// limitsWith has the sidecar decide in a store from now on.
func (s *sidecar) limitsWith(store *ruleset.Store) *limiter.Limiter {
	GinkgoHelper()
	l := limiter.New(limiter.Options{Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	DeferCleanup(l.Close)
	Expect(l.Use(store)).To(Succeed())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limiter = l
	return l
}

func (s *sidecar) storeAway() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limiter == nil {
		return time.Time{}
	}
	return s.limiter.Away()
}

// authorities of the Ruleset in force.
func (s *sidecar) authorities() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied.Authorities
}

// enforces is the limit of a policy in requests, and when it came into force; 0
// when the sidecar does not enforce the policy.
func (s *sidecar) enforces(policy string) (requests int64, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.applied.Policies {
		if p.Name == policy {
			return p.Limits[0].Requests, s.at
		}
	}
	return 0, s.at
}

// rules of a policy as the sidecar has them now; empty ones: it has none.
func (s *sidecar) rules(policy string) *ruleset.Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied != nil {
		for i := range s.applied.Policies {
			if s.applied.Policies[i].Name == policy {
				return &s.applied.Policies[i]
			}
		}
	}
	return &ruleset.Policy{}
}

func (s *sidecar) policies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{}
	for _, p := range s.applied.Policies {
		names = append(names, p.Name)
	}
	return names
}

func localListener() net.Listener {
	GinkgoHelper()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	return listener
}
