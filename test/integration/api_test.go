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

// long is a name of n characters.
func long(n int) string { return strings.Repeat("x", n) }

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
		Entry("the longest window", `{limits: [{requests: 1000000000, window: 744h}]}`),
		Entry("every identity source", `{identity: {sources: [{header: {name: X-User-ID, strip: true}}, {bearerToken: {}}, {jwtClaim: {name: sub}}, {cookie: {name: session}}, {queryParameter: {name: user}}, {clientIP: {}}], ifMissing: Reject}}`),
		Entry("a claim, a cookie and a parameter with the longest names",
			`{identity: {sources: [{jwtClaim: {name: `+long(128)+`}}, {cookie: {name: `+long(128)+`}}, {queryParameter: {name: `+long(128)+`}}]}}`),
		Entry("a claim with a URL for a name", `{identity: {sources: [{jwtClaim: {name: "https://example.com/user.id"}}]}}`),
		Entry("a parameter with a name that is encoded in URLs", `{identity: {sources: [{queryParameter: {name: "user[id] ü"}}]}}`),
		Entry("the bounds of a client's address",
			`{identity: {sources: [{clientIP: {trustedHops: 0, ipv6PrefixLength: 1}}, {clientIP: {trustedHops: 10, ipv6PrefixLength: 128}}]}}`),
		Entry("overrides", `{overrides: [{identities: [vip], limits: [{requests: 1000, window: 1m}]}, {identities: [internal], unlimited: true}]}`),
		Entry("matches", `{match: [{methods: [GET, HEAD]}, {path: {value: /v1}}, {path: {type: RegularExpression, value: "/v[0-9]+/.*"}}]}`),
		Entry("matches of headers", `{match: [{headers: [{name: X-Tier, value: free}, {name: x-app, type: RegularExpression, value: " ?[a-z]+ "}]}]}`),
		Entry("as many matches of as many headers, as long as may be", `{match: `+list(16, func(int) string {
			return `{headers: ` + list(16, func(i int) string { return fmt.Sprintf("{name: X-%d, value: %s}", i, long(1024)) }) + `}`
		})+`}`),
		Entry("nothing to do with a limit but the default", `{onLimit: {}}`),
		Entry("requests that wait", `{onLimit: {action: Wait}}`),
		Entry("requests that wait, bounded above", `{onLimit: {action: Wait, maxWait: 5m, maxWaiting: 1000}}`),
		Entry("requests that wait, bounded below", `{onLimit: {action: Wait, maxWait: 1s, maxWaiting: 1}}`),
		Entry("waiting where nothing is limited", `{mode: Observe, onLimit: {action: Wait}}`),
		Entry("interception", `{tls: Intercept}`),
		Entry("TLS that passes, outbound", `{tls: Passthrough}`),
		Entry("TLS that passes, inbound", `{direction: Inbound, hosts: null, tls: Passthrough}`),
		Entry("as many hosts as the bound", `{hosts: `+list(64, func(i int) string { return fmt.Sprintf("h%d.example.com", i) })+`}`),
	)

	It("fills in the defaults", func() {
		policy := specWith(`{match: [{path: {value: /v1}, headers: [{name: X-Tier, value: free}]}], identity: {sources: [{clientIP: {}}]}, onLimit: {}}`)
		policy.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, policy)).To(Succeed())

		stored := &v1alpha1.RateLimitPolicy{}
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(policy), stored)).To(Succeed())
		Expect(stored.Spec.Mode).To(Equal(v1alpha1.ModeEnforce))
		Expect(stored.Spec.OnStoreFailure).To(Equal(v1alpha1.OnStoreFailureLocal))
		Expect(stored.Spec.Identity.IfMissing).To(Equal(v1alpha1.IfMissingShared))
		Expect(stored.Spec.Match[0].Path.Type).To(Equal(v1alpha1.PathMatchPrefix))
		Expect(stored.Spec.Match[0].Headers[0].Type).To(Equal(v1alpha1.HeaderMatchExact))
		Expect(stored.Spec.Identity.Sources[0].ClientIP).To(Equal(&v1alpha1.ClientIPSource{IPv6PrefixLength: 64}))
		Expect(stored.Spec.OnLimit).To(Equal(&v1alpha1.OnLimit{Action: v1alpha1.OnLimitReject}))
		Expect(stored.Spec.TLS).To(Equal(v1alpha1.TLSPassthrough))
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
		Entry("more requests than the bound", `{limits: [{requests: 1000000001, window: 1m}]}`, "spec.limits[0].requests", "1000000000"),
		Entry("no identity", `{identity: null}`, "spec.identity"),
		Entry("no source", `{identity: {sources: []}}`, "spec.identity.sources"),
		Entry("a source of two kinds", `{identity: {sources: [{header: {name: X}, clientIP: {}}]}}`, "spec.identity.sources[0]",
			"exactly one of header, bearerToken, jwtClaim, cookie, queryParameter and clientIP: give each an entry of its own in sources"),
		Entry("a source of the new kinds, two at a time", `{identity: {sources: [{jwtClaim: {name: sub}, cookie: {name: a}}]}}`, "spec.identity.sources[0]", "exactly one of"),
		Entry("a source of three kinds", `{identity: {sources: [{header: {name: X}, bearerToken: {}, queryParameter: {name: a}}]}}`, "spec.identity.sources[0]", "exactly one of"),
		Entry("an empty source", `{identity: {sources: [{}]}}`, "spec.identity.sources[0]", "exactly one of"),
		Entry("a header name with a space", `{identity: {sources: [{header: {name: "X User"}}]}}`, "spec.identity.sources[0].header.name"),
		Entry("a claim without a name", `{identity: {sources: [{jwtClaim: {}}]}}`, "spec.identity.sources[0].jwtClaim.name"),
		Entry("a claim with an empty name", `{identity: {sources: [{jwtClaim: {name: ""}}]}}`, "spec.identity.sources[0].jwtClaim.name"),
		Entry("a claim with too long a name", `{identity: {sources: [{jwtClaim: {name: `+long(129)+`}}]}}`, "spec.identity.sources[0].jwtClaim.name", "128"),
		Entry("a cookie without a name", `{identity: {sources: [{cookie: {}}]}}`, "spec.identity.sources[0].cookie.name"),
		Entry("a cookie whose name ends another's", `{identity: {sources: [{cookie: {name: "a;b"}}]}}`, "spec.identity.sources[0].cookie.name"),
		Entry("a cookie with too long a name", `{identity: {sources: [{cookie: {name: `+long(129)+`}}]}}`, "spec.identity.sources[0].cookie.name", "128"),
		Entry("a parameter without a name", `{identity: {sources: [{queryParameter: {}}]}}`, "spec.identity.sources[0].queryParameter.name"),
		Entry("a parameter with an empty name", `{identity: {sources: [{queryParameter: {name: ""}}]}}`, "spec.identity.sources[0].queryParameter.name"),
		Entry("a parameter with too long a name", `{identity: {sources: [{queryParameter: {name: `+long(129)+`}}]}}`, "spec.identity.sources[0].queryParameter.name", "128"),
		Entry("fewer trusted hops than none", `{identity: {sources: [{clientIP: {trustedHops: -1}}]}}`, "spec.identity.sources[0].clientIP.trustedHops"),
		Entry("more trusted hops than the bound", `{identity: {sources: [{clientIP: {trustedHops: 11}}]}}`, "spec.identity.sources[0].clientIP.trustedHops", "10"),
		Entry("a prefix of no bits", `{identity: {sources: [{clientIP: {ipv6PrefixLength: 0}}]}}`, "spec.identity.sources[0].clientIP.ipv6PrefixLength"),
		Entry("a prefix longer than an address", `{identity: {sources: [{clientIP: {ipv6PrefixLength: 129}}]}}`, "spec.identity.sources[0].clientIP.ipv6PrefixLength", "128"),
		Entry("a match of no headers", `{match: [{headers: []}]}`, "spec.match[0].headers"),
		Entry("17 headers", `{match: [{headers: `+list(17, func(i int) string { return fmt.Sprintf("{name: X-%d, value: v}", i) })+`}]}`, "spec.match[0].headers", "16"),
		Entry("a header without a name", `{match: [{headers: [{value: free}]}]}`, "spec.match[0].headers[0].name"),
		Entry("a header whose name has a colon", `{match: [{headers: [{name: ":authority", value: a}]}]}`, "spec.match[0].headers[0].name"),
		Entry("a header with too long a name", `{match: [{headers: [{name: `+long(129)+`, value: a}]}]}`, "spec.match[0].headers[0].name", "128"),
		Entry("a header without a value", `{match: [{headers: [{name: X-Tier}]}]}`, "spec.match[0].headers[0].value"),
		Entry("a header with an empty value", `{match: [{headers: [{name: X-Tier, value: ""}]}]}`, "spec.match[0].headers[0].value"),
		Entry("a header with too long a value", `{match: [{headers: [{name: X-Tier, value: `+long(1025)+`}]}]}`, "spec.match[0].headers[0].value", "1024"),
		Entry("a header compared in an unknown way", `{match: [{headers: [{name: X-Tier, type: Prefix, value: f}]}]}`, "spec.match[0].headers[0].type", "RegularExpression"),
		Entry("an exact value that none can equal", `{match: [{headers: [{name: X-Tier, value: "free "}]}]}`, "spec.match[0].headers[0].value", "remove the space"),
		Entry("an unknown action", `{onLimit: {action: Drop}}`, "spec.onLimit.action", "Wait"),
		Entry("a time to wait for those that are rejected", `{onLimit: {maxWait: 30s}}`, "spec.onLimit.maxWait", "maxWait needs action: Wait"),
		Entry("a number of waiting ones where they are rejected", `{onLimit: {action: Reject, maxWaiting: 5}}`, "spec.onLimit.maxWaiting", "maxWaiting needs action: Wait"),
		Entry("no time to wait", `{onLimit: {action: Wait, maxWait: 0s}}`, "spec.onLimit.maxWait", "maxWait must be from 1s to 5m"),
		Entry("a time to wait above the bound", `{onLimit: {action: Wait, maxWait: 5m1s}}`, "spec.onLimit.maxWait", "maxWait must be from 1s to 5m"),
		Entry("a time to wait that is no duration", `{onLimit: {action: Wait, maxWait: 500ms}}`, "spec.onLimit.maxWait"),
		Entry("a time to wait that no duration holds", `{onLimit: {action: Wait, maxWait: 99999999999999999999999h}}`, "spec.onLimit.maxWait"),
		Entry("nobody who may wait", `{onLimit: {action: Wait, maxWaiting: 0}}`, "spec.onLimit.maxWaiting"),
		Entry("more waiting ones than the bound", `{onLimit: {action: Wait, maxWaiting: 1001}}`, "spec.onLimit.maxWaiting", "1000"),
		Entry("an unknown treatment of TLS", `{tls: Terminate}`, "spec.tls", "Intercept"),
		Entry("interception of what the pods serve", `{direction: Inbound, hosts: null, tls: Intercept}`, "spec.tls", "tls: Intercept needs direction Outbound", "end TLS before them"),
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
