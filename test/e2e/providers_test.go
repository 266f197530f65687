package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// provide makes hosts `api.<name>.<top level domain>` answer inside the
// cluster: a headless Service <name> in a namespace called like the top level
// domain has the name api.<name>.<tld>.svc.cluster.local, and svc.cluster.local
// is in every pod's search list. No DNS server is changed for it.
func provide(tld string, names ...string) {
	GinkgoHelper()
	makeTopLevelDomain(tld)
	run(tld, names, func(*podBuilder) {})
}

// provideSecurely is provide, over HTTPS too. It returns the authority of the
// hosts' certificates, in PEM.
func provideSecurely(tld string, names ...string) (authority string) {
	GinkgoHelper()
	makeTopLevelDomain(tld)
	var hosts []string
	for _, name := range names {
		hosts = append(hosts, "api."+name+"."+tld)
	}
	authority, data := certify(hosts...)
	Expect(cluster.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tld, Name: "tls"}, Data: data})).To(Succeed())
	run(tld, names, func(pod *podBuilder) {
		pod.container().Command = append(pod.container().Command, "-tls-port=443", "-tls-dir=/tls")
		pod.mounting("tls", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "tls"}}, "/tls")
	})
	return authority
}

func makeTopLevelDomain(tld string) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tld}}
	Expect(cluster.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func() {
		Expect(cluster.Delete(ctx, namespace)).To(Succeed())
		Eventually(func() error { // the next test may want the same name
			return cluster.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)
		}).ShouldNot(Succeed())
	})
}

func run(tld string, names []string, change func(*podBuilder)) {
	GinkgoHelper()
	var pods []*corev1.Pod
	for _, name := range names {
		exposed(tld, name, map[string]string{"service": name}, 80, true)
		pod := makePod(name).labelled("service", name).serving(80).as("api", name)
		change(pod)
		pods = append(pods, pod.create(tld))
	}
	waitReady(pods...)
}

// certify makes an authority and a certificate of it for hosts, as in a Secret
// of type kubernetes.io/tls.
func certify(hosts ...string) (authority string, data map[string][]byte) {
	GinkgoHelper()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "The providers' authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: hosts, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	sign := func(template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, root, &key.PublicKey, rootKey)
		Expect(err).NotTo(HaveOccurred())
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	Expect(err).NotTo(HaveOccurred())
	return string(sign(root, rootKey)), map[string][]byte{
		corev1.TLSCertKey:       sign(leaf, leafKey),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

// trustHosts has sidecars verify hosts with an authority, beside the usual ones,
// as an administrator does.
func trustHosts(authority string) {
	GinkgoHelper()
	roots := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weir-host-roots"},
		Data:       map[string]string{"ca.crt": authority},
	}
	Expect(cluster.Create(ctx, roots)).To(Succeed())
	DeferCleanup(func() { Expect(cluster.Delete(ctx, roots)).To(Succeed()) })
	// The kubelet brings it to the pods within a minute, and at once when they change.
	runKubectl("-n", systemNamespace, "annotate", "pods", "-l", "app.kubernetes.io/name=weir-operator", "--overwrite",
		"e2e/host-roots="+time.Now().Format("20060102T150405.000000"))
}
