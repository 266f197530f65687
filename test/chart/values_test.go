package chart

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestLintFindsNothing(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{"default values": nil, "a Redis": {"--set", trial}} {
		arguments := append([]string{"lint", "--strict", "--namespace", namespace, chartFolder}, values...)
		if _, err := try(t, tool(t, "helm"), arguments...); err != nil {
			t.Errorf("with %s: %v", name, err)
		}
	}
}

func TestBadValuesAreRefusedWithASentence(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values []string
		want   string
	}{
		"a misspelt value":         {[]string{trial, "operator.replcas=3"}, "at '/operator': additional properties 'replcas' not allowed"},
		"a misspelt part":          {[]string{trial, "webhooks.failurePolicy=Fail"}, "additional properties 'webhooks' not allowed"},
		"a misspelt policy":        {[]string{trial, "webhook.failurePolicy=fail"}, "at '/webhook/failurePolicy': value must be one of 'Fail', 'Ignore'"},
		"text for a number":        {[]string{trial, "operator.replicas=two"}, "at '/operator/replicas': got string, want integer"},
		"a digest that is none":    {[]string{trial, "images.sidecar.digest=latest"}, "at '/images/sidecar/digest'"},
		"a tag in the repository":  {[]string{trial, "images.worker.repository=weir-worker:1"}, "at '/images/worker/repository'"},
		"a misspelt selector":      {[]string{trial, `webhook.namespaceSelector={"matchLabel":{"a":"b"}}`}, "additional properties 'matchLabel' not allowed"},
		"a duration without unit":  {[]string{trial, "redis.timeout=100x"}, "at '/redis/timeout'"},
		"no replicas":              {[]string{trial, "operator.replicas=0"}, "operator.replicas is 0: write 1 or more"},
		"no patience":              {[]string{trial, "webhook.timeoutSeconds=0"}, "webhook.timeoutSeconds is 0: write 1 to 30"},
		"a believed proxy":         {[]string{trial, "dashboard.enabled=true", "dashboard.forwarded.userHeader=X-User"}, "dashboard.forwarded.secret is not"},
		"no Redis":                 {nil, "No Redis is named, which limits are counted in: set redis.url, redis.existingSecret or"},
		"a URL and a Secret":       {[]string{"redis.url=redis://a:6379", "redis.existingSecret=b"}, "Both redis.url and redis.existingSecret are set: keep one of them."},
		"a URL and a trial":        {[]string{"redis.url=redis://a:6379", trial}, "Both redis.url and redis.embedded.enabled are set"},
		"a URL that is none":       {[]string{"redis.url=a:6379"}, "redis.url does not begin with redis://host or rediss://host"},
		"authorities without TLS":  {[]string{"redis.url=redis://a:6379", "redis.caBundle=x"}, "redis.caBundle is set, but redis.url does not begin with rediss://"},
		"an issuer without a name": {[]string{trial, "certificates.certManager.enabled=true", "certificates.certManager.issuerRef.kind=Issuer"}, "certificates.certManager.issuerRef has no name: name the issuer, or"},
		"an issuer of nobody":      {[]string{trial, "certificates.certManager.issuerRef.name=mine"}, "issuerRef is set, but certificates.certManager.enabled is not"},
		"authorities that are no":  {[]string{"redis.url=rediss://a:6379", "redis.caBundle=x"}, "redis.caBundle holds no certificate"},
		"users of another way":     {[]string{trial, "redis.users=maybe"}, "at '/redis/users'"},
		"a collector by gRPC":      {[]string{trial, "tracing.endpoint=collector:4317"}, "tracing.endpoint is not the URL of a collector"},
		"a collector's password":   {[]string{trial, "tracing.endpoint=http://me:sesame@collector"}, "tracing.endpoint is not the URL of a collector"},
		"more than all traces":     {[]string{trial, "tracing.samplingRatio=1.5"}, "at '/tracing/samplingRatio'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if output, err := tryRender(t, test.values...); err == nil {
				t.Fatalf("want it refused, got\n%s", output)
			} else if !strings.Contains(err.Error(), test.want) {
				t.Fatalf("want %q in the error, got\n%v", test.want, err)
			}
		})
	}
	t.Run("a URL's password is not repeated", func(t *testing.T) {
		t.Parallel()
		if _, err := tryRender(t, "redis.url=http://:sesame@a"); err == nil || strings.Contains(strings.SplitN(err.Error(), "\n", 2)[1], "sesame") {
			t.Fatalf("want an error without the password, got %v", err)
		}
	})
	t.Run("a namespace that is not Weir's own", func(t *testing.T) {
		t.Parallel()
		_, err := try(t, tool(t, "helm"), "template", "weir", chartFolder, "--namespace", "kube-system", "--set", trial)
		if err == nil || !strings.Contains(err.Error(), "give Weir one of its own") {
			t.Fatalf("want the namespace refused, got %v", err)
		}
	})
}

func TestSchemaKnowsTheValuesAndNoOthers(t *testing.T) {
	t.Parallel()
	var values map[string]any
	read(t, "values.yaml", func(text []byte) error { return yaml.Unmarshal(text, &values) })
	var schema schema
	read(t, "values.schema.json", func(text []byte) error { return json.Unmarshal(text, &schema) })
	if schema.Properties["global"] == nil {
		t.Error("the schema must know global, which Helm gives every chart that is part of another")
	}
	delete(schema.Properties, "global")
	compare(t, "", values, &schema, schema.Definitions)
}

func read(t *testing.T, name string, decode func([]byte) error) {
	t.Helper()
	text, err := os.ReadFile(chartFolder + "/" + name)
	if err == nil {
		err = decode(text)
	}
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
}

type schema struct {
	Ref         string             `json:"$ref"`
	Properties  map[string]*schema `json:"properties"`
	Additional  any                `json:"additionalProperties"`
	Definitions map[string]*schema `json:"definitions"`
}

// compare the keys of a mapping with those of its schema. What the schema
// leaves open is Kubernetes' own, like tolerations.
func compare(t *testing.T, path string, values map[string]any, s *schema, definitions map[string]*schema) {
	if s.Ref != "" {
		s = definitions[strings.TrimPrefix(s.Ref, "#/definitions/")]
	}
	if s.Properties == nil {
		return
	}
	if s.Additional != false {
		t.Errorf("the schema lets unknown keys pass at %q", path)
	}
	for key, value := range values {
		member := s.Properties[key]
		if member == nil {
			t.Errorf("the schema lacks %s%s", path, key)
			continue
		}
		if value, ok := value.(map[string]any); ok {
			compare(t, path+key+".", value, member, definitions)
		}
	}
	if len(values) == 0 || strings.HasSuffix(path, "resources.") {
		return // a value that is empty by default, or open
	}
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		if _, ok := values[key]; !ok {
			t.Errorf("values.yaml lacks %s%s, which the schema knows", path, key)
		}
	}
}
