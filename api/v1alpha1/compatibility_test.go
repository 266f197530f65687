package v1alpha1

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// testdata/released has the CRDs of the last release; a release replaces them.
func TestChangesOnlyAdd(t *testing.T) {
	released, err := filepath.Glob("testdata/released/*.yaml")
	if err != nil || len(released) == 0 {
		t.Fatalf("no released CRDs: %v", err)
	}
	for _, file := range released {
		before := readCRD(t, file)
		after := readCRD(t, filepath.Join("..", "..", "config", "crd", "bases", filepath.Base(file)))
		for _, what := range taken(before, after) {
			t.Errorf("%s: %s: objects and clients of the last release would break", filepath.Base(file), what)
		}
	}
}

// Every way to take something away is found.
func TestWhatIsTakenIsFound(t *testing.T) {
	const file = "testdata/released/weir.dev_ratelimitpolicies.yaml"
	spec := func(crd *apiextensionsv1.CustomResourceDefinition) map[string]apiextensionsv1.JSONSchemaProps {
		return crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties
	}
	change := func(name string, edit func(*apiextensionsv1.JSONSchemaProps)) func(*apiextensionsv1.CustomResourceDefinition) {
		return func(crd *apiextensionsv1.CustomResourceDefinition) {
			property := spec(crd)[name]
			edit(&property)
			spec(crd)[name] = property
		}
	}
	for want, edit := range map[string]func(*apiextensionsv1.CustomResourceDefinition){
		"":                       func(*apiextensionsv1.CustomResourceDefinition) {},
		"spec.hosts is gone":     func(crd *apiextensionsv1.CustomResourceDefinition) { delete(spec(crd), "hosts") },
		"v1alpha1 is not served": func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec.Versions[0].Served = false },
		"the name, scope or group is another": func(crd *apiextensionsv1.CustomResourceDefinition) {
			crd.Spec.Scope = apiextensionsv1.ClusterScoped
		},
		"spec.limits: maxItems is 7, was 8":       change("limits", func(p *apiextensionsv1.JSONSchemaProps) { *p.MaxItems-- }),
		"spec.limits: minItems is 2, was 1":       change("limits", func(p *apiextensionsv1.JSONSchemaProps) { *p.MinItems++ }),
		"spec.hosts: type is string, was array":   change("hosts", func(p *apiextensionsv1.JSONSchemaProps) { p.Type = "string" }),
		`spec.mode: "Enforce" is allowed no more`: change("mode", func(p *apiextensionsv1.JSONSchemaProps) { p.Enum = p.Enum[1:] }),
		"spec.mode: the default is another":       change("mode", func(p *apiextensionsv1.JSONSchemaProps) { p.Default = nil }),
		"spec.match: items: x is required": change("match", func(p *apiextensionsv1.JSONSchemaProps) {
			p.Items.Schema.Required = append(p.Items.Schema.Required, "x")
		}),
		"spec.service: the pattern is another": change("service", func(p *apiextensionsv1.JSONSchemaProps) { p.Pattern += "x" }),
		`spec.hosts: there is a new rule "false"`: change("hosts", func(p *apiextensionsv1.JSONSchemaProps) {
			p.XValidations = append(p.XValidations, apiextensionsv1.ValidationRule{Rule: "false"})
		}),
	} {
		t.Run(want, func(t *testing.T) {
			after := readCRD(t, file)
			edit(after)
			got := taken(readCRD(t, file), after)
			if want == "" && len(got) > 0 || want != "" && !slices.Contains(got, want) {
				t.Fatalf("want %q, got %q", want, got)
			}
		})
	}
}

func readCRD(t *testing.T, file string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(text, crd); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return crd
}

// taken says what a CRD does not let pass, or does not mean, any more.
func taken(before, after *apiextensionsv1.CustomResourceDefinition) (found []string) {
	if before.Name != after.Name || before.Spec.Scope != after.Spec.Scope || before.Spec.Group != after.Spec.Group {
		found = append(found, "the name, scope or group is another")
	}
	for i := range before.Spec.Versions {
		old := &before.Spec.Versions[i]
		now := slices.IndexFunc(after.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == old.Name })
		if now < 0 || old.Served && !after.Spec.Versions[now].Served {
			found = append(found, old.Name+" is not served")
			continue
		}
		found = append(found, narrowed("", old.Schema.OpenAPIV3Schema, after.Spec.Versions[now].Schema.OpenAPIV3Schema)...)
	}
	return found
}

// narrowed compares two schemas of one field.
func narrowed(path string, before, after *apiextensionsv1.JSONSchemaProps) (found []string) {
	name := strings.TrimSuffix(path, ": ")
	say := func(format string, arguments ...any) {
		found = append(found, name+": "+fmt.Sprintf(format, arguments...))
	}
	if before.Type != after.Type {
		say("type is %s, was %s", after.Type, before.Type)
	}
	for what, same := range map[string]bool{
		"pattern": after.Pattern == "" || before.Pattern == after.Pattern, "format": before.Format == after.Format,
		"default":   reflect.DeepEqual(before.Default, after.Default),
		"list type": reflect.DeepEqual(before.XListType, after.XListType) && slices.Equal(before.XListMapKeys, after.XListMapKeys),
		"map type":  reflect.DeepEqual(before.XMapType, after.XMapType),
	} {
		if !same {
			say("the %s is another", what)
		}
	}
	bound := func(what string, old, now *int64, upper bool) {
		switch {
		case now == nil:
		case old == nil:
			say("%s is %d, was not there", what, *now)
		case upper && *now < *old, !upper && *now > *old:
			say("%s is %d, was %d", what, *now, *old)
		}
	}
	bound("maxItems", before.MaxItems, after.MaxItems, true)
	bound("minItems", before.MinItems, after.MinItems, false)
	bound("maxLength", before.MaxLength, after.MaxLength, true)
	bound("minLength", before.MinLength, after.MinLength, false)
	bound("maxProperties", before.MaxProperties, after.MaxProperties, true)
	bound("minProperties", before.MinProperties, after.MinProperties, false)
	bound("maximum", whole(before.Maximum), whole(after.Maximum), true)
	bound("minimum", whole(before.Minimum), whole(after.Minimum), false)
	for _, value := range before.Enum {
		if after.Enum != nil && !slices.ContainsFunc(after.Enum, func(v apiextensionsv1.JSON) bool { return string(v.Raw) == string(value.Raw) }) {
			say("%s is allowed no more", value.Raw)
		}
	}
	if before.Enum == nil && after.Enum != nil {
		say("only some values are allowed")
	}
	for _, required := range after.Required {
		if !slices.Contains(before.Required, required) {
			say("%s is required", required)
		}
	}
	for _, rule := range after.XValidations {
		if !slices.ContainsFunc(before.XValidations, func(r apiextensionsv1.ValidationRule) bool { return r.Rule == rule.Rule }) {
			say("there is a new rule %q", rule.Rule)
		}
	}
	for field, old := range before.Properties {
		now, is := after.Properties[field]
		child := strings.TrimPrefix(name+"."+field, ".")
		if strings.HasSuffix(path, ": ") {
			child = path + field
		}
		if !is {
			found = append(found, child+" is gone")
			continue
		}
		found = append(found, narrowed(child, &old, &now)...)
	}
	if before.Items != nil && before.Items.Schema != nil && after.Items != nil && after.Items.Schema != nil {
		found = append(found, narrowed(name+": items: ", before.Items.Schema, after.Items.Schema)...)
	}
	if before.AdditionalProperties != nil && after.AdditionalProperties != nil && before.AdditionalProperties.Schema != nil && after.AdditionalProperties.Schema != nil {
		found = append(found, narrowed(name+": values: ", before.AdditionalProperties.Schema, after.AdditionalProperties.Schema)...)
	}
	return found
}

func whole(number *float64) *int64 {
	if number == nil {
		return nil
	}
	value := int64(*number)
	return &value
}
