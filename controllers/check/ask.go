package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/injection"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxAnswerBytes of what is read: a patch stays far below.
const maxAnswerBytes = 1 << 20

// injects sends the webhook a pod that asks for a sidecar, as the API server
// would in a dry run, and wants one in the answer.
func injects(ctx context.Context, client *http.Client, url string) error {
	review, err := askingPod()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+injection.WebhookPath, bytes.NewReader(review))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	body, status, err := answer(client, request)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("it answers status %d: see the operator's log", status)
	}
	var answered admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &answered); err != nil || answered.Response == nil {
		return fmt.Errorf("its answer is no AdmissionReview: the Service leads elsewhere than to the operator")
	}
	response := answered.Response
	if !response.Allowed {
		why := "it does not say why"
		if response.Result != nil && response.Result.Message != "" {
			why = response.Result.Message
		}
		return fmt.Errorf("it refuses a pod that it should change: %s", why)
	}
	if !bytes.Contains(response.Patch, []byte(`"name":"`+v1alpha1.SidecarContainer+`"`)) {
		return fmt.Errorf("it lets a pod pass that asks for a sidecar, without one")
	}
	return nil
}

// askingPod is a review of a pod that never is.
func askingPod() ([]byte, error) {
	const namespace = metav1.NamespaceDefault
	pod, err := json.Marshal(&corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "weir-test", Namespace: namespace,
			Labels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectPod},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:       "weir-test",
			Kind:      metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
			Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Name:      "weir-test",
			Namespace: namespace,
			Operation: admissionv1.Create,
			DryRun:    new(true),
			Object:    runtime.RawExtension{Raw: pod},
		},
	})
}

// asksWho calls the link without a token, and wants to be asked for one.
func asksWho(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+ruleset.LinkPath, http.NoBody)
	if err != nil {
		return err
	}
	_, status, err := answer(client, request)
	if err == nil && status != http.StatusUnauthorized {
		err = fmt.Errorf("it answers status %d without a token, where 401 is due", status)
	}
	return err
}

func answer(client *http.Client, request *http.Request) (body []byte, status int, err error) {
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	return body, response.StatusCode, err
}
