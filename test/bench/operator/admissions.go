package operator

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// authority is what the operator has published to verify it with.
func (b *bench) authority(ctx context.Context) ([]byte, error) {
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := b.api.client.Get(ctx, client.ObjectKey{Name: "weir"}, configuration); err != nil {
		return nil, err
	}
	return configuration.Webhooks[0].ClientConfig.CABundle, nil
}

// admit asks the webhook itself, over one connection, one at a time.
func (b *bench) admit(ctx context.Context) (AdmissionRow, error) {
	row := AdmissionRow{How: "asked directly", Admissions: b.options.Admissions}
	bundle, err := b.authority(ctx)
	if err != nil {
		return row, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	asking := &http.Client{Transport: transport}
	var times []time.Duration
	for i := range b.options.Admissions {
		review, err := reviewOf(b.fleet.namespaces[i%len(b.fleet.namespaces)], i)
		if err != nil {
			return row, err
		}
		began := time.Now()
		if err := b.ask(ctx, asking, review); err != nil {
			return row, err
		}
		times = append(times, time.Since(began))
	}
	row.P50, row.P99 = quantile(times, 0.5), quantile(times, 0.99)
	return row, nil
}

func reviewOf(namespace string, i int) ([]byte, error) {
	created := pod(namespace, false, i)
	created.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	object, err := json.Marshal(created)
	if err != nil {
		return nil, err
	}
	return json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: types.UID(fmt.Sprint(i)), Operation: admissionv1.Create, Namespace: namespace, Name: created.Name,
			Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Object: runtime.RawExtension{Raw: object},
		},
	})
}

func (b *bench) ask(ctx context.Context, asking *http.Client, review []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.operator.webhookURL(), bytes.NewReader(review))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := asking.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	if answer.Response == nil || !answer.Response.Allowed || len(answer.Response.Patch) == 0 {
		return fmt.Errorf("the webhook did not inject: %s", text)
	}
	return nil
}

// create makes pods in the API server, with injection and without, in turns.
func (b *bench) create(ctx context.Context) (injected, plain AdmissionRow, err error) {
	count := b.options.Admissions / 5
	injected, plain = AdmissionRow{How: "pod created, injected", Admissions: count}, AdmissionRow{How: "pod created, opted out", Admissions: count}
	namespace := b.fleet.namespaces[1]
	pods := b.api.typed.CoreV1().Pods(namespace)
	var with, without []time.Duration
	for i := range 2 * count {
		wanted := pod(namespace, false, i)
		wanted.Name = fmt.Sprintf("admitted-%d", i)
		times := &with
		if i%2 == 1 {
			wanted.Labels[v1alpha1.LabelInject] = v1alpha1.InjectOptOut
			times = &without
		}
		began := time.Now()
		made, err := pods.Create(ctx, wanted, metav1.CreateOptions{})
		if err != nil {
			return injected, plain, err
		}
		*times = append(*times, time.Since(began))
		if injection := len(made.Spec.InitContainers) > 0; injection != (i%2 == 0) {
			return injected, plain, errors.New("a pod was injected that should not be, or the reverse")
		}
		if err := pods.Delete(ctx, made.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			return injected, plain, err
		}
	}
	injected.P50, injected.P99 = quantile(with, 0.5), quantile(with, 0.99)
	plain.P50, plain.P99 = quantile(without, 0.5), quantile(without, 0.99)
	return injected, plain, nil
}
