package chart

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The values that something obeys: what each is changed to, what else that
// takes, and what is then rendered that was not before. Empty: less is.
var obeyed = map[string]struct {
	to    string
	with  []string
	shows string
}{
	"images.registry":            {to: "registry.example/weir", shows: "image: registry.example/weir/weir-operator:dev"},
	"images.pullPolicy":          {to: "Always", shows: "--worker-image-pull-policy=Always"},
	"images.pullSecrets":         {to: `["mine"]`, shows: "imagePullSecrets:\n      - name: mine"},
	"images.operator.repository": {to: "own", shows: "image: own:dev"},
	"images.operator.tag":        {to: "v1", shows: "image: weir-operator:v1"},
	"images.operator.digest":     {to: digest, shows: "image: weir-operator@" + digest},
	"images.sidecar.repository":  {to: "own", shows: `{name: SIDECAR_IMAGE, value: "own:dev"}`},
	"images.sidecar.tag":         {to: "v1", shows: `{name: SIDECAR_IMAGE, value: "weir-sidecar:v1"}`},
	"images.sidecar.digest":      {to: digest, shows: `{name: SIDECAR_IMAGE, value: "weir-sidecar@` + digest},
	"images.worker.repository":   {to: "own", shows: `{name: WORKER_IMAGE, value: "own:dev"}`},
	"images.worker.tag":          {to: "latest", shows: "--worker-image-pull-policy=IfNotPresent"},
	"images.worker.digest":       {to: digest, shows: `{name: WORKER_IMAGE, value: "weir-worker@` + digest},

	"crds.install": {to: "false"},
	"crds.keep":    {to: "false"},

	"redis.url":                          {to: "redis://mine:6379", with: []string{"redis.embedded.enabled=false"}, shows: `url: "redis://mine:6379"`},
	"redis.caBundle":                     {to: pem, with: []string{"redis.embedded.enabled=false", "redis.url=rediss://mine:6379"}, shows: `ca.crt: "` + pem},
	"redis.existingSecret":               {to: "mine", with: []string{"redis.embedded.enabled=false"}, shows: "secret: {secretName: mine, optional: true}"},
	"redis.insecureSkipVerify":           {to: "true", shows: "- --store-insecure-skip-verify"},
	"redis.timeout":                      {to: "50ms", shows: "- --store-timeout=50ms"},
	"redis.users":                        {to: "always", shows: "- --store-users=always"},
	"redis.userRotation":                 {to: "1h", shows: "- --store-user-rotation=1h"},
	"redis.embedded.enabled":             {to: "false", with: []string{"redis.url=redis://mine:6379"}, shows: "redis://mine:6379"},
	"redis.embedded.image.repository":    {to: "own", shows: "image: own:8"},
	"redis.embedded.image.tag":           {to: "v7", shows: "image: redis:v7"},
	"redis.embedded.image.digest":        {to: digest, shows: "image: redis@" + digest},
	"redis.embedded.maxMemory":           {to: "1gb", shows: "--maxmemory, 1gb,"},
	"redis.embedded.resources":           {to: `{"limits":{"memory":"2Gi"}}`, shows: "memory: 2Gi"},
	"redis.embedded.nodeSelector":        {to: `{"disk":"ssd"}`, shows: "nodeSelector:\n        disk: ssd"},
	"redis.embedded.tolerations":         {to: `[{"key":"redis"}]`, shows: "tolerations:\n      - key: redis"},
	"redis.embedded.affinity":            {to: `{"podAffinity":{}}`, shows: "affinity:\n        podAffinity: {}"},
	"redis.embedded.priorityClassName":   {to: "high", shows: "priorityClassName: high"},
	"broker.existingSecret":              {to: "mine", shows: "secret: {secretName: mine, optional: true}"},
	"operator.replicas":                  {to: "3", shows: "replicas: 3"},
	"operator.resources":                 {to: `{"limits":{"memory":"2Gi"}}`, shows: "memory: 2Gi"},
	"operator.nodeSelector":              {to: `{"disk":"ssd"}`, shows: "nodeSelector:\n        disk: ssd"},
	"operator.tolerations":               {to: `[{"key":"weir"}]`, shows: "tolerations:\n      - key: weir"},
	"operator.affinity":                  {to: `{"podAffinity":{}}`, shows: "affinity:\n        podAffinity: {}"},
	"operator.topologySpreadConstraints": {to: `[]`},
	"operator.priorityClassName":         {to: "high", shows: "priorityClassName: high"},
	"operator.podLabels":                 {to: `{"team":"a"}`, shows: "        team: a\n"},
	"operator.podAnnotations":            {to: `{"team":"a"}`, shows: "        team: a\n"},
	"operator.logLevel":                  {to: "debug", shows: "- --zap-log-level=debug"},

	"operator.podDisruptionBudget.enabled":        {to: "false"},
	"operator.podDisruptionBudget.maxUnavailable": {to: "50%", shows: "maxUnavailable: 50%"},

	"dashboard.enabled":                {to: "true", shows: "- --operator=weir-link.weir-system.svc:9444\n        ports:\n        - {name: http, containerPort: 5555}"},
	"dashboard.replicas":               {to: "4", with: page("dashboard.sessionKeySecret=k"), shows: "replicas: 4"},
	"dashboard.tlsSecret":              {to: "mine", with: page(), shows: "secret: {secretName: mine}"},
	"dashboard.behindTLS":              {to: "true", with: page(), shows: "- --behind-tls"},
	"dashboard.sessionKeySecret":       {to: "mine", with: page(), shows: "secret: {secretName: mine}"},
	"dashboard.hideCallers":            {to: "true", with: page(), shows: "- --hide-callers"},
	"dashboard.forwarded.userHeader":   {to: "X-User", with: page("dashboard.forwarded.secret=proxy"), shows: "- --forwarded-user-header=X-User"},
	"dashboard.forwarded.groupsHeader": {to: "X-Groups", with: page(), shows: "- --forwarded-groups-header=X-Groups"},
	"dashboard.forwarded.secret":       {to: "mine", with: page("dashboard.forwarded.userHeader=X-User"), shows: "secret: {secretName: mine}"},
	"dashboard.from":                   {to: `[{"podSelector":{"matchLabels":{"app":"ingress"}}}]`, with: page("networkPolicy.enabled=true"), shows: "app: ingress"},
	"dashboard.resources":              {to: `{"limits":{"memory":"2Gi"}}`, with: page(), shows: "memory: 2Gi"},
	"dashboard.nodeSelector":           {to: `{"disk":"ssd"}`, with: page(), shows: "nodeSelector:\n        disk: ssd"},
	"dashboard.tolerations":            {to: `[{"key":"weir"}]`, with: page(), shows: "tolerations:\n      - key: weir"},
	"dashboard.affinity":               {to: `{"podAffinity":{}}`, with: page(), shows: "affinity:\n        podAffinity: {}"},
	"dashboard.priorityClassName":      {to: "high", with: page(), shows: "priorityClassName: high"},
	"dashboard.podLabels":              {to: `{"team":"a"}`, with: page(), shows: "        team: a\n"},
	"dashboard.podAnnotations":         {to: `{"team":"a"}`, with: page(), shows: "        team: a\n"},

	"webhook.failurePolicy":      {to: "Ignore", with: []string{"operator.replicas=1"}, shows: "failurePolicy: Ignore"},
	"webhook.timeoutSeconds":     {to: "2", shows: "timeoutSeconds: 2"},
	"webhook.excludedNamespaces": {to: `["istio-system"]`, shows: `"weir-system","istio-system"]`},
	"webhook.namespaceSelector":  {to: `{"matchLabels":{"env":"prod"},"matchExpressions":[{"key":"team","operator":"Exists"}]}`, shows: "    matchLabels:\n      env: prod\n"},
	"webhook.objectSelector":     {to: `{"matchLabels":{"tier":"api"},"matchExpressions":[{"key":"team","operator":"Exists"}]}`, shows: "    matchLabels:\n      tier: api\n"},

	"certificates.certManager.enabled":     {to: "true", shows: "- --certificate-secret=weir-serving-certificate"},
	"certificates.certManager.issuerRef":   {to: `{"name":"mine","kind":"ClusterIssuer"}`, with: []string{"certificates.certManager.enabled=true"}, shows: "    name: mine\n    kind: ClusterIssuer\n"},
	"certificates.certManager.duration":    {to: "48h", with: []string{"certificates.certManager.enabled=true"}, shows: "duration: 48h"},
	"certificates.certManager.renewBefore": {to: "24h", with: []string{"certificates.certManager.enabled=true"}, shows: "renewBefore: 24h"},

	"interception.authorityLife":      {to: "720h", shows: "- --authority-life=720h"},
	"interception.leafLife":           {to: "1h", shows: "- --leaf-life=1h"},
	"interception.hostRootsConfigMap": {to: "mine", shows: "configMap: {name: mine, optional: true}"},

	"tracing.endpoint":      {to: "http://collector:4318", shows: "- --traces-endpoint=http://collector:4318"},
	"tracing.samplingRatio": {to: "0.5", shows: "- --traces-ratio=0.5"},

	"networkPolicy.enabled":            {to: "true", shows: "kind: NetworkPolicy"},
	"networkPolicy.metricsFrom":        {to: `[{"podSelector":{"matchLabels":{"app":"prometheus"}}}]`, with: []string{"networkPolicy.enabled=true"}, shows: "app: prometheus"},
	"networkPolicy.isolatedNamespaces": {to: `["bondhu"]`, shows: "namespace: bondhu"},

	"monitoring.labels":                    {to: `{"release":"prometheus"}`, with: []string{"monitoring.podMonitor.enabled=true"}, shows: "release: prometheus"},
	"monitoring.interval":                  {to: "15s", with: []string{"monitoring.serviceMonitor.enabled=true"}, shows: "interval: 15s"},
	"monitoring.serviceMonitor.enabled":    {to: "true", shows: "kind: ServiceMonitor"},
	"monitoring.podMonitor.enabled":        {to: "true", shows: "kind: PodMonitor"},
	"monitoring.podMonitor.namespaces":     {to: `["bondhu"]`, with: []string{"monitoring.podMonitor.enabled=true"}, shows: `matchNames: ["bondhu"]`},
	"monitoring.prometheusRule.enabled":    {to: "true", shows: "kind: PrometheusRule"},
	"monitoring.prometheusRule.runbookURL": {to: "https://wiki.example/weir", with: []string{"monitoring.prometheusRule.enabled=true"}, shows: "runbook_url: https://wiki.example/weir#weirstoredegraded"},
	"monitoring.dashboards.enabled":        {to: "true", shows: "name: weir-dashboard-limits"},
	"monitoring.dashboards.labels":         {to: `{"grafana":"yes"}`, with: []string{"monitoring.dashboards.enabled=true"}, shows: `grafana: "yes"`},
	"monitoring.dashboards.annotations":    {to: `{"folder":"Weir"}`, with: []string{"monitoring.dashboards.enabled=true"}, shows: "folder: Weir"},
}

// page are values with the dashboard.
func page(more ...string) []string { return append([]string{"dashboard.enabled=true"}, more...) }

const (
	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	pem    = "-----BEGIN CERTIFICATE-----"
)

func TestEveryValueIsObeyed(t *testing.T) {
	t.Parallel()
	for path, test := range obeyed {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			base := append([]string{trial}, test.with...)
			before, after := "", render(t, append(slices.Clone(base), path+"="+test.to)...)
			// Where the others alone are no valid values, there is no before.
			before, _ = tryRender(t, base...)
			switch {
			case test.shows == "" && len(after) >= len(before):
				t.Errorf("%s=%s leaves nothing out", path, test.to)
			case strings.Contains(before, test.shows) && test.shows != "":
				t.Errorf("%q is there without %s too", test.shows, path)
			case !strings.Contains(after, test.shows):
				t.Errorf("%s=%s does not show as %q in\n%s", path, test.to, test.shows, after)
			}
		})
	}
}

func TestEveryValueHasATest(t *testing.T) {
	t.Parallel()
	var values map[string]any
	read(t, "values.yaml", func(text []byte) error { return yaml.Unmarshal(text, &values) })
	tested := maps.Clone(obeyed)
	var visit func(string, map[string]any)
	visit = func(prefix string, values map[string]any) {
		for key, value := range values {
			path := prefix + key
			if _, ok := tested[path]; ok {
				delete(tested, path)
				continue
			}
			if members, ok := value.(map[string]any); ok && len(members) > 0 {
				visit(path+".", members)
				continue
			}
			t.Errorf("no test shows that %s is obeyed", path)
		}
	}
	visit("", values)
	for path := range tested {
		t.Errorf("%s is no value", path)
	}
}

func TestTheWebhooksSelectorsKeepWhatWeirNeeds(t *testing.T) {
	t.Parallel()
	rendered := objects(t, render(t, trial,
		`webhook.namespaceSelector={"matchLabels":{"env":"prod"},"matchExpressions":[{"key":"team","operator":"Exists"}]}`,
		`webhook.objectSelector={"matchLabels":{"tier":"api"},"matchExpressions":[{"key":"app","operator":"Exists"}]}`))
	text := pretty(rendered["MutatingWebhookConfiguration /weir"])
	for want, times := range map[string]int{
		`"env": "prod"`: 4, `"tier": "api"`: 4, `"key": "team"`: 4, `"key": "app"`: 4, // of all four webhooks
		`"weir.dev/inject": "enabled"`: 2, `"weir.dev/inject": "true"`: 2, `"key": "kubernetes.io/metadata.name"`: 4,
	} {
		if got := strings.Count(text, want); got != times {
			t.Errorf("want %s %d times, got %d in\n%s", want, times, got, text)
		}
	}
}
