package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestImageHoldsTheFilesAndIsReproducible(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	program, certificates := filepath.Join(folder, "program"), filepath.Join(folder, "certificates")
	if err := os.WriteFile(program, []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(certificates, []byte("certificates"), 0o600); err != nil {
		t.Fatal(err)
	}
	var archives [2][]byte
	for i := range archives {
		output := filepath.Join(folder, "image.tar")
		opts, err := parse([]string{
			"-tag", "weir-x:dev", "-output", output, "-entrypoint", "/x,--flag", "-user", "14014:14014", "-architecture", "arm64",
			program + "=/x", certificates + "=/etc/ssl/certs/ca.crt",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := write(opts); err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(output); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same files made two different archives")
	}

	image, err := tarball.ImageFromPath(filepath.Join(folder, "image.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.Config.User != "14014:14014" ||
		!slices.Equal(config.Config.Entrypoint, []string{"/x", "--flag"}) {
		t.Errorf("configuration %+v of %s", config.Config, config.Architecture)
	}

	content := mutate.Extract(image)
	defer content.Close()
	var got []string
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, header.FileInfo().Mode().String()+" "+header.Name+" "+string(body))
	}
	want := []string{
		"drwxr-xr-x etc ", "drwxr-xr-x etc/ssl ", "drwxr-xr-x etc/ssl/certs ",
		"-rw-r--r-- etc/ssl/certs/ca.crt certificates", "-rwxr-xr-x x program",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		args   []string
	}{
		{"no files", []string{"-tag", "x:1", "-output", "x.tar", "-entrypoint", "/x"}},
		{"no entrypoint", []string{"-tag", "x:1", "-output", "x.tar", "a=/x"}},
		{"a relative place in the image", []string{"-tag", "x:1", "-output", "x.tar", "-entrypoint", "/x", "a=x"}},
	} {
		if _, err := parse(c.args); err == nil {
			t.Errorf("%s: accepted", c.reason)
		}
	}
}
