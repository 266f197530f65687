// Command reference writes docs/reference.md: every field of the resources,
// from the CRDs in config/crd/bases.
//
// usage: reference [-output FOLDER]   FOLDER: where the repository's paths begin, default here
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

const (
	crds = "config/crd/bases/*.yaml"
	page = "docs/reference.md"
)

func main() {
	output := flag.String("output", ".", "folder that the repository's paths begin at")
	flag.Parse()
	if err := run(*output); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	paths, err := filepath.Glob(crds)
	if err != nil || len(paths) == 0 {
		return errors.Join(err, errors.New("config/crd/bases holds no CRD: run this in the repository's folder"))
	}
	var resources []resource
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var r resource
		if err := yaml.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if len(r.Spec.Versions) != 1 {
			return fmt.Errorf("%s has %d versions: this knows of one", path, len(r.Spec.Versions))
		}
		resources = append(resources, r)
	}
	slices.Reverse(resources) // RateLimitPolicy before PeriodicTask
	target := filepath.Join(output, page)
	return errors.Join(
		os.MkdirAll(filepath.Dir(target), 0o755),
		os.WriteFile(target, []byte(render(resources)), 0o644),
	)
}
