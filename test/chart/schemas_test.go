package chart

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

const definitionsPrefix = "#/definitions/"

// writeSchemas writes the API server's own OpenAPI document as the JSON schemas
// that kubeconform reads, strict ones, and returns where they are in its
// notation.
func writeSchemas(t *testing.T, server *rest.Config) string {
	t.Helper()
	discovered, err := discovery.NewDiscoveryClientForConfig(server)
	if err != nil {
		t.Fatal(err)
	}
	text, err := discovered.RESTClient().Get().AbsPath("/openapi/v2").SetHeader("Accept", "application/json").DoRaw(t.Context())
	if err != nil {
		t.Fatalf("reading the API server's schemas: %v", err)
	}
	var document struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, definition := range document.Definitions {
		strict(name, definition)
	}
	for name, definition := range document.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			kind := kind.(map[string]any)
			group := cmp.Or(kind["group"].(string), kind["version"].(string)) // kubeconform's word for the group of Pods is v1
			used := map[string]any{}
			closure(name, document.Definitions, used)
			text, err := json.Marshal(map[string]any{"$ref": definitionsPrefix + name, "definitions": used})
			if err != nil {
				t.Fatal(err)
			}
			file := fmt.Sprintf("%s_%s_%s.json", group, strings.ToLower(kind["kind"].(string)), kind["version"])
			if err := os.WriteFile(filepath.Join(folder, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return folder + "/{{.Group}}_{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
}

// strict makes a definition refuse fields that it does not know, and takes
// numbers where OpenAPI cannot say that they may be.
func strict(name string, node any) {
	switch node := node.(type) {
	case map[string]any:
		if node["properties"] != nil && node["additionalProperties"] == nil && node["x-kubernetes-preserve-unknown-fields"] != true {
			node["additionalProperties"] = false
		}
		if node["format"] == "int-or-string" || strings.HasSuffix(name, "api.resource.Quantity") {
			node["type"] = []string{"string", "number"}
		}
		for _, member := range node {
			strict("", member)
		}
	case []any:
		for _, member := range node {
			strict("", member)
		}
	}
}

// closure collects a definition and all that it refers to.
func closure(name string, definitions map[string]map[string]any, used map[string]any) {
	if used[name] != nil {
		return
	}
	used[name] = definitions[name]
	var visit func(any)
	visit = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			if ref, ok := node["$ref"].(string); ok {
				closure(strings.TrimPrefix(ref, definitionsPrefix), definitions, used)
			}
			for _, member := range node {
				visit(member)
			}
		case []any:
			for _, member := range node {
				visit(member)
			}
		}
	}
	visit(definitions[name])
}
