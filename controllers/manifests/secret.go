package manifests

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// SecretName is the one Secret of a namespace with the broker's URL. It is
// fixed, so that the operator's role can name it.
const SecretName = "weir-task-broker"

// Keys of the Secret.
const (
	KeyURL = "url"
	KeyCA  = "ca.crt"
)

// AnnotationVersion on the Secret is the version of its content.
const AnnotationVersion = annotationBrokerVersion

// Broker is how workers reach the broker.
type Broker struct {
	// URL is redis:// or rediss://.
	URL string
	// CABundle is PEM to verify a rediss:// server with; empty: the system's.
	CABundle string
}

// Secret holds the broker's URL for the workers of all tasks of a namespace. It
// goes with the last of them.
func Secret(namespace string, broker Broker, version string, owners []v1alpha1.PeriodicTask) *corev1.Secret {
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   namespace,
			Name:        SecretName,
			Labels:      map[string]string{"app.kubernetes.io/managed-by": "weir-operator"},
			Annotations: map[string]string{AnnotationVersion: version},
		},
		Type: corev1.SecretTypeOpaque,
		Data: SecretData(broker),
	}
	for i := range owners {
		secret.OwnerReferences = append(secret.OwnerReferences, metav1.OwnerReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "PeriodicTask", Name: owners[i].Name, UID: owners[i].UID,
		})
	}
	slices.SortFunc(secret.OwnerReferences, func(a, b metav1.OwnerReference) int { return cmp.Compare(a.Name, b.Name) })
	return secret
}

// SecretData is the Secret's content.
func SecretData(broker Broker) map[string][]byte {
	data := map[string][]byte{KeyURL: []byte(workerURL(broker))}
	if broker.CABundle != "" {
		data[KeyCA] = []byte(broker.CABundle)
	}
	return data
}

// workerURL says in Celery's own parameters how to verify a TLS server: without
// them Celery refuses a rediss:// URL. What the URL says already stays.
func workerURL(broker Broker) string {
	if !strings.HasPrefix(broker.URL, "rediss://") {
		return broker.URL
	}
	url := broker.URL
	add := func(name, value string) {
		if strings.Contains(url, name+"=") {
			return
		}
		separator := "?"
		if strings.Contains(url, "?") {
			separator = "&"
		}
		url += separator + name + "=" + value
	}
	add("ssl_cert_reqs", "required")
	if broker.CABundle != "" {
		add("ssl_ca_certs", brokerDir+"/"+KeyCA)
	}
	return url
}
