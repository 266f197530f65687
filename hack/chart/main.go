// Command chart writes what of charts/weir follows from something else: the
// CRDs and the operator's permissions from config/, and the README's table of
// values from values.yaml.
//
// usage: chart [-output FOLDER]   FOLDER: where the repository's paths begin, default here
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	folder    = "charts/weir"
	generated = "{{- /* Generated from %s by make generate. */}}\n"
)

func main() {
	output := flag.String("output", ".", "folder that the repository's paths begin at")
	flag.Parse()
	if err := run(*output); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	files, err := generate()
	if err != nil {
		return err
	}
	for path, content := range files {
		path = filepath.Join(output, path)
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, content, 0o644),
		); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the files' contents by their paths.
func generate() (map[string][]byte, error) {
	files := map[string][]byte{}
	sources, err := filepath.Glob("config/crd/bases/*.yaml")
	if err != nil || len(sources) == 0 {
		return nil, errors.Join(err, errors.New("config/crd/bases holds no CRD: run this in the repository's folder"))
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		content, err := crdTemplate(source, text)
		if err != nil {
			return nil, err
		}
		files[filepath.Join(folder, "templates/crds", filepath.Base(source))] = content
	}
	if files[filepath.Join(folder, "templates/rbac.yaml")], err = rbacTemplate("config/rbac", ""); err != nil {
		return nil, err
	}
	if files[filepath.Join(folder, "templates/dashboard-rbac.yaml")], err = rbacTemplate("config/dashboard/rbac", ".Values.dashboard.enabled"); err != nil {
		return nil, err
	}
	files[filepath.Join(folder, "README.md")], err = readme(folder)
	return files, err
}

// literal says that text means in a template what it says.
func literal(source string, text []byte) error {
	if bytes.Contains(text, []byte("{{")) {
		return fmt.Errorf("%s contains {{, which a template would read", source)
	}
	return nil
}

// crdTemplate makes a CRD a template with a switch, which helm uninstall keeps.
func crdTemplate(source string, text []byte) ([]byte, error) {
	if err := literal(source, text); err != nil {
		return nil, err
	}
	const annotations = "metadata:\n  annotations:\n"
	before, after, found := strings.Cut(strings.TrimPrefix(string(text), "---\n"), annotations)
	if !found {
		return nil, fmt.Errorf("%s has no annotations where they are expected", source)
	}
	return []byte(fmt.Sprintf(generated, source) +
		"{{- if .Values.crds.install }}\n" + before +
		"metadata:\n  labels: {{- include \"weir.labels\" . | nindent 4 }}\n  annotations:\n" +
		"    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}\n" +
		after + "{{- end }}\n"), nil
}
