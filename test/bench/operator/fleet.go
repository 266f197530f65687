package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// applications of a namespace; a tenth of its pods is of each.
	applications = 10
	// writers write to the API server at the same time.
	writers = 24
	// few pods are those that the policy fewPolicy selects, by fewLabel.
	few       = 10
	fewLabel  = "bench.weir.dev/few"
	fewPolicy = "few"
	// allPolicy selects every pod of the first namespace.
	allPolicy = "all"
	tokenLife = 24 * 3600 // seconds
)

// fleet is what is in the API server: the first namespace has a tenth of the
// pods, the others share the rest.
type fleet struct {
	namespaces []string
	// pods of each namespace.
	pods []int
	// policies of each namespace.
	policies []int
}

func plan(o Options) fleet {
	count := min(50, max(2, o.Pods/200))
	f := fleet{namespaces: make([]string, count), pods: make([]int, count), policies: make([]int, count)}
	f.pods[0] = max(few, o.Pods/10)
	for i := range count {
		f.namespaces[i] = fmt.Sprintf("bench-%02d", i)
		f.policies[i] = share(o.Policies, count, i)
		if i > 0 {
			f.pods[i] = share(o.Pods-f.pods[0], count-1, i-1)
		}
	}
	return f
}

// share is the i-th of so many nearly equal shares.
func share(total, shares, i int) int { return total*(i+1)/shares - total*i/shares }

func podName(i int) string { return fmt.Sprintf("app-%d-6f7d9c5b84-%05d", i%applications, i) }

// createNamespaces has policies in force before the first pod comes.
func (f fleet) createNamespaces(ctx context.Context, c *controlPlane) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i, name := range f.namespaces {
		group.Go(func() error {
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectNamespace}}}
			if err := c.client.Create(ctx, namespace); err != nil {
				return err
			}
			// Without a controller manager nobody makes the one that pods run as.
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}}
			if err := c.client.Create(ctx, account); err != nil {
				return err
			}
			for k := range f.policies[i] {
				if err := c.client.Create(ctx, policy(name, i == 0, k)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// policy is the k-th of a namespace.
func policy(namespace string, first bool, k int) *v1alpha1.RateLimitPolicy {
	p := &v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("policy-%03d", k)}}
	p.Spec.Identity.Sources = []v1alpha1.IdentitySource{{Header: &v1alpha1.HeaderSource{Name: "X-User-ID"}}, {ClientIP: &v1alpha1.ClientIPSource{}}}
	p.Spec.Limits = []v1alpha1.Limit{{Requests: 100, Window: metav1.Duration{Duration: time.Minute}}, {Requests: 2000, Window: metav1.Duration{Duration: time.Hour}}}
	p.Spec.Overrides = []v1alpha1.Override{{Identities: []string{"user_vip"}, Limits: []v1alpha1.Limit{{Requests: 1000, Window: metav1.Duration{Duration: time.Minute}}}}}
	p.Spec.Direction = v1alpha1.DirectionInbound
	p.Spec.Match = []v1alpha1.RequestMatch{{Methods: []v1alpha1.HTTPMethod{"GET"}, Path: &v1alpha1.PathMatch{Type: v1alpha1.PathMatchPrefix, Value: fmt.Sprintf("/v%d", k)}}}
	if k%2 == 1 {
		p.Spec.Direction, p.Spec.Hosts = v1alpha1.DirectionOutbound, []string{fmt.Sprintf("api-%d.example.com", k), fmt.Sprintf("*.api-%d.example.com", k)}
	}
	p.Spec.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", k%applications)}}
	switch {
	case first && k == 0:
		p.Name, p.Spec.PodSelector = allPolicy, nil
	case first && k == 1:
		p.Name, p.Spec.PodSelector.MatchLabels = fewPolicy, map[string]string{fewLabel: "true"}
	}
	return p
}

// pod is the i-th of a namespace as a ReplicaSet would create it.
func pod(namespace string, first bool, i int) *corev1.Pod {
	app := fmt.Sprintf("app-%d", i%applications)
	created := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: podName(i),
			Labels: map[string]string{
				"app": app, "app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "bench",
				"app.kubernetes.io/version": "1.2.3", "pod-template-hash": "6f7d9c5b84",
			},
			Annotations: map[string]string{"prometheus.io/scrape": "true", "checksum/config": "0f343b0931126a20f133d67c2b018a3b0f343b0931126a20f133d67c2b018a3b"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-6f7d9c5b84", UID: types.UID(namespace + "/" + app), Controller: new(true),
			}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default", NodeName: fmt.Sprintf("node-%03d", i%200),
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.example/team/" + app + ":1.2.3",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				Env: []corev1.EnvVar{
					{Name: "LOG_LEVEL", Value: "info"}, {Name: "DATABASE_URL", Value: "postgres://db.internal:5432/app"},
					{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
				},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http")}}},
				LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
			}},
		},
	}
	if first && i < few {
		created.Labels[fewLabel] = "true"
	}
	return created
}

// member is a pod that is there, and what its sidecar proves itself with.
type member struct {
	namespace, name, token string
}

// createPods makes every pod through the webhook, as Running, with a token.
func (f fleet) createPods(ctx context.Context, c *controlPlane) ([]member, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	var members []*member
	for n, namespace := range f.namespaces {
		for i := range f.pods[n] {
			made := &member{namespace: namespace, name: podName(i)}
			members = append(members, made)
			number := len(members)
			group.Go(func() error { return made.create(ctx, c, pod(namespace, n == 0, i), number) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("creating the pods: %w", err)
	}
	all := make([]member, len(members))
	for i, one := range members {
		all[i] = *one
	}
	return all, nil
}

func (m *member) create(ctx context.Context, c *controlPlane, wanted *corev1.Pod, number int) error {
	pods := c.typed.CoreV1().Pods(m.namespace)
	made, err := pods.Create(ctx, wanted, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if len(made.Spec.InitContainers) == 0 {
		return fmt.Errorf("pod %s/%s was not injected", m.namespace, m.name)
	}
	if _, err := pods.Patch(ctx, m.name, types.StrategicMergePatchType, running(made, number), metav1.PatchOptions{}, "status"); err != nil {
		return err
	}
	m.token, err = podToken(ctx, c, made)
	return err
}

// podToken is what the kubelet would ask for.
func podToken(ctx context.Context, c *controlPlane, made *corev1.Pod) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{ruleset.Audience}, ExpirationSeconds: new(int64(tokenLife)),
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: made.Name, UID: made.UID},
	}}
	answer, err := c.typed.CoreV1().ServiceAccounts(made.Namespace).CreateToken(ctx, "default", request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

// running is the status that a kubelet would patch.
func running(made *corev1.Pod, number int) []byte {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, HostIP: "10.0.0.1",
		PodIP: fmt.Sprintf("10.%d.%d.%d", 128+number/65536, number/256%256, number%256),
	}
	status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	for _, condition := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	started := func(containers []corev1.Container) (statuses []corev1.ContainerStatus) {
		for _, container := range containers {
			statuses = append(statuses, corev1.ContainerStatus{
				Name: container.Name, Image: container.Image, Ready: true, Started: new(true),
				ImageID: container.Image + "@sha256:0f343b0931126a20f133d67c2b018a3b0f343b0931126a20f133d67c2b018a3b", ContainerID: "containerd://0f343b0931126a20f133d67c2b018a3b",
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			})
		}
		return statuses
	}
	status.InitContainerStatuses, status.ContainerStatuses = started(made.Spec.InitContainers), started(made.Spec.Containers)
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		panic(err) // a status can be encoded
	}
	return patch
}
