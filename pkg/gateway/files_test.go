package gateway_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway"
)

func TestADocumentNamesOnlyFilesItMay(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, file := range []string{filepath.Join(dir, "password"), filepath.Join(outside, "master.key")} {
		if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "master.key"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "password"), filepath.Join(dir, "inside")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files gateway.Files
		file  string
		may   bool
	}{
		{"below", gateway.Files{Dir: dir}, filepath.Join(dir, "password"), true},
		{"a link that stays below", gateway.Files{Dir: dir}, filepath.Join(dir, "inside"), true},
		{"elsewhere", gateway.Files{Dir: dir}, filepath.Join(outside, "master.key"), false},
		{"a link that leads out", gateway.Files{Dir: dir}, filepath.Join(dir, "link"), false},
		{"dots that lead out", gateway.Files{Dir: dir}, dir + "/../" + filepath.Base(outside) + "/master.key", false},
		{"a longer name", gateway.Files{Dir: dir}, dir + "x/password", false},
		{"a relative name", gateway.Files{Dir: dir}, "password", false},
		{"no folder", gateway.Files{}, filepath.Join(dir, "password"), false},
		{"anywhere", gateway.Files{Anywhere: true}, filepath.Join(outside, "master.key"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := gateway.New(gateway.Options{Authenticator: &authenticator{}, Logger: slog.New(slog.DiscardHandler), Files: c.files})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			err = g.Apply(parse(t, fmt.Sprintf(`
version: 1
services: [{name: a, url: "http://127.0.0.1:1"}]
routes: [{name: r, service: a, basic_auth: {username: u, password_file: %q}}]`, c.file)))
			if (err == nil) != c.may || err != nil && !strings.Contains(err.Error(), "routes[0].basic_auth.password_file") {
				t.Errorf("got %v", err)
			}
		})
	}
}
