// Package masterkey keeps the master key in a file, for an installation that was given
// none. What the key protects is none of its business.
package masterkey

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/keywarden/keywarden/pkg/seal"
)

// ReadOrMake reads the key from a file that nobody else may read, or makes it.
func ReadOrMake(path string) (seal.Secret, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return seal.Secret{}, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return seal.Secret{}, fmt.Errorf("%s can be read by others; make it private with: chmod 600 %s", path, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return seal.Secret{}, err
	}
	return seal.NewSecret(string(text)), nil
}

// makeKey writes a new key so that it is there wholly or not at all, and
// that of two processes one makes it.
func makeKey(path string) (seal.Secret, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must pass; the files in it are private
		return seal.Secret{}, err
	}
	key := seal.NewMasterKey()
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return seal.Secret{}, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(key.Reveal() + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return seal.Secret{}, err
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return seal.Secret{}, fmt.Errorf("store the new master key: %w", err)
	}
	return key, nil
}
