package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// valid is the smallest useful policy; the tables change one thing at a time.
const valid = `
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: spotify}
spec:
  direction: Outbound
  hosts: [api.spotify.com]
  identity: {sources: [{header: {name: X-User-ID}}]}
  limits: [{requests: 100, window: 1m}]
`

// policyFrom decodes YAML as a user's file is: with nothing left out that a
// Go type would not know.
func policyFrom(text string) *unstructured.Unstructured {
	GinkgoHelper()
	object := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal([]byte(text), &object.Object)).To(Succeed(), text)
	return object
}

// specWith merges YAML over the valid policy's spec; a null removes a field.
func specWith(change string) *unstructured.Unstructured {
	GinkgoHelper()
	policy := policyFrom(valid)
	var fields map[string]any
	Expect(yaml.Unmarshal([]byte(change), &fields)).To(Succeed(), change)
	spec := policy.Object["spec"].(map[string]any)
	for name, value := range fields {
		if value == nil {
			delete(spec, name)
			continue
		}
		spec[name] = value
	}
	return policy
}

// list renders n items as a YAML flow sequence.
func list(n int, item func(int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// samplePolicies reads config/samples.
func samplePolicies() []*unstructured.Unstructured {
	GinkgoHelper()
	files, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "ratelimitpolicy_*.yaml"))
	Expect(err).NotTo(HaveOccurred())
	var policies []*unstructured.Unstructured
	for _, file := range files {
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		policies = append(policies, policyFrom(string(text)))
	}
	return policies
}

var _ = Describe("The API server", func() {
	strict := client.FieldValidation("Strict")

	DescribeTable("accepts", func(change string) {
		policy := specWith(change)
		policy.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, policy, strict)).To(Succeed())
	},
		Entry("the smallest policy", `{}`),
		Entry("an inbound policy for any host", `{direction: Inbound, hosts: null}`),
		Entry("a wildcard host", `{hosts: ["*.spotify.com"]}`),
		Entry("several limits", `{limits: [{requests: 10, window: 1s}, {requests: 100, window: 1m}, {requests: 1000, window: 24h}]}`),
		Entry("the longest window", `{limits: [{requests: 10000, window: 744h}]}`),
		Entry("every identity source", `{identity: {sources: [{header: {name: X-User-ID, strip: true}}, {bearerToken: {}}, {clientIP: {}}], ifMissing: Reject}}`),
		Entry("overrides", `{overrides: [{identities: [vip], limits: [{requests: 1000, window: 1m}]}, {identities: [internal], unlimited: true}]}`),
		Entry("matches", `{match: [{methods: [GET, HEAD]}, {path: {value: /v1}}, {path: {type: RegularExpression, value: "/v[0-9]+/.*"}}]}`),
		Entry("as many hosts as the bound", `{hosts: `+list(64, func(i int) string { return fmt.Sprintf("h%d.example.com", i) })+`}`),
	)

	It("fills in the defaults", func() {
		policy := specWith(`{match: [{path: {value: /v1}}]}`)
		policy.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, policy)).To(Succeed())

		stored := &v1alpha1.RateLimitPolicy{}
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(policy), stored)).To(Succeed())
		Expect(stored.Spec.Mode).To(Equal(v1alpha1.ModeEnforce))
		Expect(stored.Spec.OnStoreFailure).To(Equal(v1alpha1.OnStoreFailureAllow))
		Expect(stored.Spec.Identity.IfMissing).To(Equal(v1alpha1.IfMissingShared))
		Expect(stored.Spec.Match[0].Path.Type).To(Equal(v1alpha1.PathMatchPrefix))
		Expect(stored.ServiceName()).To(Equal("spotify"))
	})

	DescribeTable("refuses, naming the field and the remedy", func(change string, sentences ...string) {
		policy := specWith(change)
		policy.SetNamespace(newNamespace(nil))
		err := k8sClient.Create(ctx, policy, strict)
		Expect(err).To(HaveOccurred())
		Expect(apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)).To(BeTrue(), "a refusal, not a failure: %v", err)
		for _, sentence := range sentences {
			Expect(err.Error()).To(ContainSubstring(sentence))
		}
	},
		Entry("no host on Outbound", `{hosts: null}`, "spec.hosts", "hosts is required when direction is Outbound"),
		Entry("an empty list of hosts", `{hosts: []}`, "spec.hosts"),
		Entry("10,000 hosts", `{hosts: `+list(10_000, func(i int) string { return fmt.Sprintf("h%d.example.com", i) })+`}`, "spec.hosts", "64"),
		Entry("a URL for a host", `{hosts: ["http://api.spotify.com/v1"]}`, "spec.hosts[0]"),
		Entry("a wildcard in the middle", `{hosts: ["api.*.com"]}`, "spec.hosts[0]"),
		Entry("a host twice", `{hosts: [a.com, a.com]}`, "spec.hosts[1]", "Duplicate"),
		Entry("no direction", `{direction: null}`, "spec.direction"),
		Entry("an unknown direction", `{direction: Sideways}`, "spec.direction", "Inbound"),
		Entry("a zero window", `{limits: [{requests: 1, window: 0s}]}`, "spec.limits[0].window", "window must be from 1s to 744h"),
		Entry("a window below a second", `{limits: [{requests: 1, window: 100ms}]}`, "spec.limits[0].window"),
		Entry("a negative window", `{limits: [{requests: 1, window: -1m}]}`, "spec.limits[0].window"),
		Entry("a window above the bound", `{limits: [{requests: 1, window: 745h}]}`, "spec.limits[0].window", "744h"),
		Entry("a window that is no duration", `{limits: [{requests: 1, window: often}]}`, "spec.limits[0].window"),
		Entry("a window without unit", `{limits: [{requests: 1, window: 60}]}`, "spec.limits[0].window"),
		Entry("no limits", `{limits: []}`, "spec.limits"),
		Entry("nine limits", `{limits: `+list(9, func(i int) string { return fmt.Sprintf("{requests: 1, window: %ds}", i+1) })+`}`, "spec.limits", "8"),
		Entry("one window twice, spelt differently", `{limits: [{requests: 1, window: 1m}, {requests: 2, window: 60s}]}`, "spec.limits", "two limits have the same window"),
		Entry("zero requests", `{limits: [{requests: 0, window: 1m}]}`, "spec.limits[0].requests"),
		Entry("more requests than the bound", `{limits: [{requests: 10001, window: 1m}]}`, "spec.limits[0].requests", "10000"),
		Entry("no identity", `{identity: null}`, "spec.identity"),
		Entry("no source", `{identity: {sources: []}}`, "spec.identity.sources"),
		Entry("a source of two kinds", `{identity: {sources: [{header: {name: X}, clientIP: {}}]}}`, "spec.identity.sources[0]", "exactly one of header, bearerToken and clientIP"),
		Entry("an empty source", `{identity: {sources: [{}]}}`, "spec.identity.sources[0]", "exactly one of"),
		Entry("a header name with a space", `{identity: {sources: [{header: {name: "X User"}}]}}`, "spec.identity.sources[0].header.name"),
		Entry("a path without slash", `{match: [{path: {value: v1}}]}`, "spec.match[0].path.value", "starts with '/'"),
		Entry("a match that states nothing", `{match: [{}]}`, "spec.match[0]"),
		Entry("an unknown method", `{match: [{methods: [FETCH]}]}`, "spec.match[0].methods[0]"),
		Entry("an override with neither limits nor unlimited", `{overrides: [{identities: [a]}]}`, "spec.overrides[0]", "either limits or unlimited"),
		Entry("an override with both", `{overrides: [{identities: [a], unlimited: true, limits: [{requests: 1, window: 1m}]}]}`, "spec.overrides[0]", "either limits or unlimited"),
		Entry("a service that is no name", `{service: "Spot ify"}`, "spec.service"),
		Entry("an unknown field", `{limit: 5}`, "unknown field", "spec.limit"),
		Entry("an unknown mode", `{mode: Watch}`, "spec.mode"),
		Entry("an unknown failure behaviour", `{onStoreFailure: Panic}`, "spec.onStoreFailure"),
	)

	DescribeTable("refuses to change what names the quota", func(before, after, sentence string) {
		namespace := newNamespace(nil)
		policy := specWith(before)
		policy.SetNamespace(namespace)
		Expect(k8sClient.Create(ctx, policy)).To(Succeed())

		edited := specWith(after)
		edited.SetNamespace(namespace)
		edited.SetResourceVersion(policy.GetResourceVersion())
		err := k8sClient.Update(ctx, edited)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err.Error()).To(ContainSubstring(sentence))
	},
		Entry("the direction", `{}`, `{direction: Inbound}`, "direction is immutable"),
		Entry("the service", `{service: a}`, `{service: b}`, "service is immutable"),
		Entry("a service that is added", `{}`, `{service: b}`, "service is immutable"),
		Entry("a service that is removed", `{service: a}`, `{}`, "service is immutable"),
	)

	It("takes the samples as they are", func() {
		namespace := newNamespace(nil)
		samples := samplePolicies()
		Expect(samples).To(HaveLen(4))
		for _, sample := range samples {
			sample.SetNamespace(namespace)
			Expect(k8sClient.Create(ctx, sample, strict)).To(Succeed())
		}
	})
})
