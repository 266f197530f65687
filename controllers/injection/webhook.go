package injection

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// WebhookPath is where the API server asks for the mutation of pods.
const WebhookPath = "/mutate-v1-pod"

// Compile makes the Ruleset that a pod with these labels begins with. It is only
// read.
type Compile func(ctx context.Context, namespace string, podLabels map[string]string) (*ruleset.Ruleset, error)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Handler is the admission webhook of pods.
type Handler struct {
	// Reader reads namespaces from the cache.
	Reader client.Reader
	// LiveReader reads a namespace that the cache does not know to be enabled.
	LiveReader client.Reader
	Decoder    admission.Decoder
	Config     Config
	Compile    Compile
	// Recorder of events on pods' owners.
	Recorder Recorder
}

// SetupWithManager registers the webhook with the manager's server.
func SetupWithManager(ctx context.Context, mgr ctrl.Manager, config Config, compile Compile) error {
	// Watched from the start, so that no admission waits for the first listing.
	if _, err := mgr.GetCache().GetInformer(ctx, &corev1.Namespace{}, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("watching namespaces: %w", err)
	}
	mgr.GetWebhookServer().Register(WebhookPath, &webhook.Admission{Handler: &Handler{
		Reader:     mgr.GetClient(),
		LiveReader: mgr.GetAPIReader(),
		Decoder:    admission.NewDecoder(mgr.GetScheme()),
		Config:     config,
		Compile:    compile,
		Recorder:   mgr.GetEventRecorder("weir-injector"),
	}})
	return nil
}

// Handle answers for one pod that is about to be created.
func (h *Handler) Handle(ctx context.Context, request admission.Request) admission.Response {
	if request.Operation != admissionv1.Create || request.SubResource != "" {
		return admission.Allowed("")
	}
	pod := &corev1.Pod{}
	if err := h.Decoder.Decode(request, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("decoding the pod: %w", err))
	}
	namespaceLabels, err := h.namespaceLabels(ctx, pod, request.Namespace)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	events := h.eventsFor(request, pod)
	answer := func(changed *corev1.Pod, notices []Notice) admission.Response {
		return admission.Patched("", Patch(pod, changed)...).WithWarnings(events.notices(notices)...)
	}

	decision := Decide(pod, request.Namespace, namespaceLabels, h.Config.OperatorNamespace)
	if decision.Skipped != "" {
		events.skipped(decision.Skipped)
		return admission.Allowed("").WithWarnings("no Weir sidecar: " + decision.Skipped)
	}
	if decision.Complete {
		return answer(Complete(pod))
	}
	if !decision.Inject {
		return admission.Allowed("")
	}

	// The pods of a ReplicaSet or Job have no namespace of their own yet.
	rules, err := h.Compile(ctx, request.Namespace, pod.Labels)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	injected, notices, err := Inject(pod, h.Config, rules)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		events.refused(refusal)
		return admission.Denied(refusal.Sentence)
	}
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	events.injected(h.Config.Image)
	return answer(injected, append(notices, podSecurityNotice(pod, request.Namespace, namespaceLabels)...))
}

// namespaceLabels reads the labels of the pod's namespace. The API server asks
// only for namespaces whose labels it found enabled, and may be ahead of the
// cache: what the cache would leave out is read again, so that no pod is missed
// right after its namespace was labelled. Where the pod's own label decides, the
// labels only serve to warn, and what the cache has is enough.
func (h *Handler) namespaceLabels(ctx context.Context, pod *corev1.Pod, name string) (map[string]string, error) {
	namespace := &corev1.Namespace{}
	key := client.ObjectKey{Name: name}
	err := h.Reader.Get(ctx, key, namespace)
	switch pod.Labels[v1alpha1.LabelInject] {
	case v1alpha1.InjectPod, v1alpha1.InjectOptOut:
		return namespace.Labels, nil
	}
	if apierrors.IsNotFound(err) || err == nil && namespace.Labels[v1alpha1.LabelInject] != v1alpha1.InjectNamespace {
		err = h.LiveReader.Get(ctx, key, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading namespace %s to see whether its pods get a sidecar: %w", name, err)
	}
	return namespace.Labels, nil
}

// Recorder records an event about an object. client-go's recorder folds a
// repeated event into one with a count.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any)
}

// Reasons of the events on the owners of pods.
const (
	EventInjected         = "Injected"
	EventSkippedInjection = "SkippedInjection"
	EventInjectionRefused = "InjectionRefused"
)

// ownerEvents reports on the controller that creates a pod: the pod itself has
// no UID yet, and when it is refused never will.
type ownerEvents struct {
	recorder Recorder
	owner    *corev1.ObjectReference
}

// eventsFor reports nothing for a dry run, which must have no effect, and for a
// pod that nobody controls, whose author gets the answer directly.
func (h *Handler) eventsFor(request admission.Request, pod *corev1.Pod) ownerEvents {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || request.DryRun != nil && *request.DryRun {
		return ownerEvents{}
	}
	return ownerEvents{recorder: h.Recorder, owner: &corev1.ObjectReference{
		APIVersion: owner.APIVersion,
		Kind:       owner.Kind,
		Namespace:  request.Namespace,
		Name:       owner.Name,
		UID:        owner.UID,
	}}
}

func (e ownerEvents) record(eventType, reason, note string) {
	if e.owner != nil {
		// An event's note has at most 1024 bytes.
		e.recorder.Eventf(e.owner, nil, eventType, reason, "Inject", "%.1000s", note)
	}
}

// notices records notices, and returns their sentences for the answer.
func (e ownerEvents) notices(notices []Notice) (warnings []string) {
	for _, notice := range notices {
		e.record(notice.Type, notice.Reason, notice.Sentence)
		warnings = append(warnings, notice.Sentence)
	}
	return warnings
}

func (e ownerEvents) injected(image string) {
	e.record(corev1.EventTypeNormal, EventInjected, "Added a Weir sidecar ("+image+") to a pod")
}

func (e ownerEvents) skipped(reason string) {
	e.record(corev1.EventTypeWarning, EventSkippedInjection, "Added no Weir sidecar to a pod: "+reason)
}

func (e ownerEvents) refused(refusal *Refusal) {
	e.record(corev1.EventTypeWarning, EventInjectionRefused, "Refused a pod: "+refusal.Sentence)
}
