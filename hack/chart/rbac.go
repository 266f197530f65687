package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// namespace that config/ installs into.
const namespace = "weir-system"

// What stands in an object for what a template writes there.
const (
	namespaceMark = "WEIR-NAMESPACE"
	labelsMark    = "WEIR-LABELS"
)

// rbacTemplate makes the objects of a kustomization templates of the release's
// namespace; with a condition, only where that holds.
func rbacTemplate(folder, condition string) ([]byte, error) {
	var kustomization struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Resources  []string `json:"resources"`
	}
	text, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalStrict(text, &kustomization); err != nil {
		return nil, fmt.Errorf("%s/kustomization.yaml does more than name resources, which this knows not of: %w", folder, err)
	}
	template := bytes.NewBufferString(fmt.Sprintf(generated, folder))
	if condition != "" {
		template.WriteString("{{- if " + condition + " }}\n")
	}
	for _, name := range kustomization.Resources {
		source := filepath.Join(folder, name)
		text, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		if err := literal(source, text); err != nil {
			return nil, err
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			object, err := rbacObject(document)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", source, err)
			}
			template.WriteString("---\n" + object)
		}
	}
	if condition != "" {
		template.WriteString("{{- end }}\n")
	}
	return template.Bytes(), nil
}

func rbacObject(document string) (string, error) {
	var object map[string]any
	if err := yaml.Unmarshal([]byte(document), &object); err != nil {
		return "", err
	}
	metadata, ok := object["metadata"].(map[string]any)
	if !ok || metadata["labels"] != nil {
		return "", fmt.Errorf("an object has no metadata, or labels of its own: %v", metadata["name"])
	}
	metadata["labels"] = labelsMark
	mark(object)
	text, err := yaml.Marshal(object)
	return strings.NewReplacer(
		" "+labelsMark, ` {{- include "weir.labels" . | nindent 4 }}`,
		namespaceMark, "{{ .Release.Namespace }}",
	).Replace(string(text)), err
}

// mark replaces the namespace in metadata and subjects.
func mark(value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, member := range value {
			if key == "namespace" && member == namespace {
				value[key] = namespaceMark
				continue
			}
			mark(member)
		}
	case []any:
		for _, member := range value {
			mark(member)
		}
	}
}
