package main

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestTablesSayTypeBoundsDefaultAndRules(t *testing.T) {
	t.Parallel()
	var r resource
	if err := yaml.Unmarshal([]byte(`
spec:
  group: weir.dev
  scope: Namespaced
  names: {kind: Dam, plural: dams, shortNames: [d], categories: [weir]}
  versions:
  - name: v1
    additionalPrinterColumns: [{name: Level, jsonPath: .status.level, priority: 1}]
    schema:
      openAPIV3Schema:
        description: A dam.
        properties:
          status: {properties: {level: {type: integer}}}
          spec:
            required: [gates]
            properties:
              gates:
                type: array
                maxItems: 2000
                minItems: 1
                items:
                  required: [name]
                  type: object
                  properties:
                    name: {type: string, maxLength: 9, pattern: "a|b", description: "name\nof it."}
                    side: {type: string, enum: [Left, Right], default: Left}
                    open: {type: string, pattern: "^([0-9]+(h|m|s))+$", x-kubernetes-validations: [{rule: a || b, message: not so long}]}
`), &r); err != nil {
		t.Fatal(err)
	}
	page := render([]resource{r})
	for _, want := range []string{
		"| `gates` | list of objects; 1 to 2,000 entries | required |  |",
		"| `gates[].name` | string; at most 9 characters; `a\\|b` | required | name of it. |",
		"| `gates[].side` | string; `Left`, `Right` | `Left` |  |",
		"| `gates[].open` | duration |  |  |",
		"- `spec.gates[].open`: not so long. `` a || b ``",
		"| Level (`-o wide`) | `status.level` |",
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("want a line %q in\n%s", want, page)
		}
	}
}
