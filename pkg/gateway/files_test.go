package gateway_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/files"
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
		files files.Allowed
		file  string
		may   bool
	}{
		{"below", files.Allowed{Dir: dir}, filepath.Join(dir, "password"), true},
		{"a link that stays below", files.Allowed{Dir: dir}, filepath.Join(dir, "inside"), true},
		{"elsewhere", files.Allowed{Dir: dir}, filepath.Join(outside, "master.key"), false},
		{"a link that leads out", files.Allowed{Dir: dir}, filepath.Join(dir, "link"), false},
		{"dots that lead out", files.Allowed{Dir: dir}, dir + "/../" + filepath.Base(outside) + "/master.key", false},
		{"a longer name", files.Allowed{Dir: dir}, dir + "x/password", false},
		{"a relative name", files.Allowed{Dir: dir}, "password", false},
		{"no folder", files.Allowed{}, filepath.Join(dir, "password"), false},
		{"anywhere", files.Allowed{Anywhere: true}, filepath.Join(outside, "master.key"), true},
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
