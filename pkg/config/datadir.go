package config

import (
	"errors"
	"fmt"
	"path/filepath"
)

// appFolder is the name of the product's folder among those of others.
const appFolder = "keywarden"

// DataDir is the absolute path of the folder for local files: data.dir, or what
// the platform has for the purpose. lookup finds HOME and XDG_DATA_HOME; isRoot
// says whether the process has user id 0. The folder need not exist.
func DataDir(cfg *Config, lookup func(name string) (string, bool), isRoot bool) (string, error) {
	if cfg.Data.Dir != "" {
		dir, err := filepath.Abs(cfg.Data.Dir)
		if err != nil {
			return "", fmt.Errorf("data.dir: %w", err)
		}
		return dir, nil
	}
	if isRoot {
		// Not below /root: PostgreSQL runs as another user, who may not enter there.
		return filepath.Join("/var/lib", appFolder), nil
	}
	// The XDG Base Directory Specification ignores a path that is not absolute.
	if base, _ := lookup("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, appFolder), nil
	}
	if home, _ := lookup("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", appFolder), nil
	}
	return "", errors.New("data.dir is not set, and neither XDG_DATA_HOME nor HOME says where it could be")
}
