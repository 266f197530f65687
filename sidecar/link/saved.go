package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// savedName is the file in StateDir that holds the last good Ruleset. It holds
// Redis credentials: only the sidecar's user may read it, and StateDir is
// memory-backed.
const savedName = "ruleset.json"

// load returns the saved Ruleset, or nil when there is none.
func load(file, namespace string, most int64) (*ruleset.Ruleset, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	r, err := decode(f, most)
	if err != nil {
		return nil, err
	}
	if err := acceptable(r, namespace); err != nil {
		return nil, err
	}
	return r, nil
}

// save replaces the saved Ruleset atomically, readable for the owner only.
func save(file string, r *ruleset.Ruleset) error {
	encoded, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the Ruleset: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".ruleset-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // nothing is left of it after the rename
	if _, err := f.Write(encoded); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
