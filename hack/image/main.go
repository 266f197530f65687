// Command image writes a container image as a docker-archive tar, without a
// container engine: files of this machine in one layer over nothing. What it
// writes depends on those files alone, so the same files make the same image.
//
// usage: image -tag NAME:TAG -output FILE.tar -entrypoint PATH[,ARG…] [-user UID[:GID]] SOURCE=/PATH …
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// options of one image.
type options struct {
	tag, output, user, architecture string
	entrypoint                      []string
	files                           []file
}

// file of this machine and its place in the image.
type file struct{ source, target string }

func main() {
	opts, err := parse(os.Args[1:])
	if err == nil {
		err = write(opts)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&opts.tag, "tag", "", "name:tag of the image")
	flags.StringVar(&opts.output, "output", "", "tar file to write")
	flags.StringVar(&opts.user, "user", "65532:65532", "numeric user[:group]")
	flags.StringVar(&opts.architecture, "architecture", runtime.GOARCH, "GOARCH of the files")
	entrypoint := flags.String("entrypoint", "", "command, arguments separated by commas")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	opts.entrypoint = strings.Split(*entrypoint, ",")
	for _, arg := range flags.Args() {
		source, target, found := strings.Cut(arg, "=")
		if !found || !path.IsAbs(target) {
			return opts, fmt.Errorf("file %q: write SOURCE=/PATH", arg)
		}
		opts.files = append(opts.files, file{source, path.Clean(target)})
	}
	if opts.tag == "" || opts.output == "" || *entrypoint == "" || len(opts.files) == 0 {
		return opts, errors.New("-tag, -output, -entrypoint and at least one SOURCE=/PATH are required")
	}
	return opts, nil
}

func write(opts options) error {
	tag, err := name.NewTag(opts.tag)
	if err != nil {
		return fmt.Errorf("tag: %w", err)
	}
	content, err := layerTar(opts.files)
	if err != nil {
		return fmt.Errorf("layer of %s: %w", opts.tag, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return fmt.Errorf("layer of %s: %w", opts.tag, err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("image %s: %w", opts.tag, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("image %s: %w", opts.tag, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", opts.architecture
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User:       opts.user,
		Entrypoint: opts.entrypoint,
		WorkingDir: "/",
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return fmt.Errorf("image %s: %w", opts.tag, err)
	}
	if err := tarball.WriteToFile(opts.output, tag, image); err != nil {
		return fmt.Errorf("write %s: %w", opts.output, err)
	}
	return nil
}

// layerTar is a tar of the files with their folders: owned by root, without
// times, in order of their targets. Symbolic links are followed.
func layerTar(files []file) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.target, b.target) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	for _, f := range files {
		if err := addFolders(w, path.Dir(f.target), made); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(f.source)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(f.source)
		if err != nil {
			return nil, err
		}
		mode := int64(0o644)
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.target[1:], Size: int64(len(content)), Mode: mode}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// addFolders adds a folder and those above it that are not made yet.
func addFolders(w *tar.Writer, folder string, made map[string]bool) error {
	if made[folder] {
		return nil
	}
	if err := addFolders(w, path.Dir(folder), made); err != nil {
		return err
	}
	made[folder] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder[1:] + "/", Mode: 0o755})
}
