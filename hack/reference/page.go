package main

import (
	"fmt"
	"strings"
)

const preamble = `<!-- Generated from config/crd/bases by make generate. -->
# Reference

Every field of both resources, as the API server checks them. What fields mean together is in the guides: [RateLimitPolicy](ratelimitpolicy.md), [PeriodicTask](periodictask.md). ` + "`kubectl explain rlpol.spec`" + ` prints the same from a cluster.

A duration is written in hours, minutes and seconds: ` + "`90s`, `1m30s`, `24h`" + `. ` + "`[]`" + ` stands for an entry of a list. A rule is in [CEL](https://kubernetes.io/docs/reference/using-api/cel/); what breaks it is refused with its sentence.

` + "`podSelector`" + ` is a Kubernetes [LabelSelector](https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors), ` + "`conditions`" + ` are Kubernetes' ([API conventions](https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#typical-status-properties)); their reasons are in the guides and in [troubleshooting](troubleshooting.md).
`

// render is the page.
func render(resources []resource) string {
	var b strings.Builder
	b.WriteString(preamble)
	for i := range resources {
		section(&b, &resources[i])
	}
	return b.String()
}

func section(b *strings.Builder, r *resource) {
	names, version := r.Spec.Names, r.Spec.Versions[0]
	root := version.Schema.OpenAPI
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n", names.Kind, strings.Join(strings.Fields(root.Description), " "))
	fmt.Fprintf(b, "`apiVersion: %s/%s`, %s. `kubectl get %s`, short `%s`; `kubectl get %s` lists it with the others.\n",
		r.Spec.Group, version.Name, strings.ToLower(r.Spec.Scope), names.Plural, strings.Join(names.ShortNames, "`, `"), strings.Join(names.Categories, "`, `"))
	var rules []string
	for _, rule := range root.Rules {
		rules = append(rules, fmt.Sprintf("- %s. `` %s ``", prose(rule.Message), rule.Rule))
	}
	for _, part := range []string{"spec", "status"} {
		schema := root.Properties[part]
		top := field{path: part, schema: &schema}
		fmt.Fprintf(b, "\n### %s %s\n\n", names.Kind, part)
		rules = append(rules, table(b, part, &schema, top)...)
		if len(rules) > 0 {
			fmt.Fprintf(b, "\nRules:\n\n%s\n", strings.Join(rules, "\n"))
		}
		rules = nil
	}
	fmt.Fprintf(b, "\n### %s columns\n\n| column of `kubectl get` | field |\n|---|---|\n", names.Kind)
	for _, column := range version.Columns {
		wide := ""
		if column.Priority > 0 {
			wide = " (`-o wide`)"
		}
		fmt.Fprintf(b, "| %s%s | `%s` |\n", column.Name, wide, strings.TrimPrefix(column.JSONPath, "."))
	}
}

// table writes the fields below a part, and returns the rules.
func table(b *strings.Builder, part string, s *schema, top field) []string {
	rules := top.rules()
	b.WriteString("| field | value | default | |\n|---|---|---|---|\n")
	for _, f := range fields(part, s) {
		value := f.kind()
		if bounds := f.bounds(); bounds != "" {
			value += "; " + bounds
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(f.path, part+"."), value, f.preset(f.required), prose(f.Description))
		rules = append(rules, f.rules()...)
	}
	return rules
}
