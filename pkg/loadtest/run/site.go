package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// site is an installation: the program, its services, and people who use it.
type site struct {
	dir       string
	addr      string
	processes []*exec.Cmd
	users     []user
}

// user is somebody with a session and a key.
type user struct{ email, token, key string }

const (
	people   = 8
	password = "correct horse battery staple"
	// document is relative to the repository's root, as is what is built.
	document = "configs/load/gateway.yaml"
)

func newSite(ctx context.Context, program string) (_ *site, err error) {
	dir, err := os.MkdirTemp("", "keywarden-load-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may be another user
		return nil, err
	}
	addresses, err := loadtest.FreeAddresses(3)
	if err != nil {
		return nil, err
	}
	s.addr = addresses[0]
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, fmt.Errorf("%w (start it from the root of the repository)", err)
	}
	changed := strings.NewReplacer("127.0.0.1:8081", addresses[1], "127.0.0.1:8082", addresses[2]).Replace(string(text))
	gateway := filepath.Join(dir, "gateway.yaml")
	if err := os.WriteFile(gateway, []byte(changed), 0o600); err != nil {
		return nil, err
	}
	for i, name := range []string{"usersvc", "productsvc"} {
		path, err := loadtest.Build(ctx, dir, "./cmd/"+name)
		if err != nil {
			return nil, err
		}
		if err := s.start(path, nil, "--addr", addresses[1+i]); err != nil {
			return nil, err
		}
		if err := loadtest.AwaitReady(ctx, "http://"+addresses[1+i]+"/health"); err != nil {
			return nil, err
		}
	}
	if program == "" {
		if program, err = loadtest.Build(ctx, dir, "./cmd/keywarden"); err != nil {
			return nil, err
		}
	}
	env := []string{"KEYWARDEN_MASTER_KEY=" + seal.NewMasterKey().Reveal(), "KEYWARDEN_DATA_DIR=" + filepath.Join(dir, "data")}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		env = append(env, "DATABASE_URL="+url)
	}
	if err := s.start(program, env, "serve", "--set", "server.addr="+s.addr, "--set", "gateway.file="+gateway); err != nil {
		return nil, err
	}
	if err := loadtest.AwaitReady(ctx, "http://"+s.addr+"/readyz"); err != nil {
		return nil, fmt.Errorf("%w; its log: %s", err, s.log(program))
	}
	return s, s.enrol(ctx)
}

// start starts a program whose log goes into a file.
func (s *site) start(program string, env []string, args ...string) error {
	log, err := os.Create(s.logFile(program))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.processes = append(s.processes, cmd)
	return nil
}

func (s *site) logFile(program string) string {
	return filepath.Join(s.dir, filepath.Base(program)+".log")
}

func (s *site) log(program string) []byte {
	text, _ := os.ReadFile(s.logFile(program))
	return text
}

// enrol registers people, signs them in and gives each a key, as anybody would.
func (s *site) enrol(ctx context.Context) error {
	base := "http://" + s.addr
	for i := range people {
		u := user{email: fmt.Sprintf("load%d.%d@example.com", time.Now().UnixNano(), i)}
		person := map[string]string{"email": u.email, "password": password}
		if _, err := loadtest.Call(ctx, http.MethodPost, base+"/auth/register", "", person); err != nil {
			return err
		}
		session, err := loadtest.Call(ctx, http.MethodPost, base+"/auth/login", "", person)
		if err != nil {
			return err
		}
		u.token, _ = session["access_token"].(string)
		key, err := loadtest.Call(ctx, http.MethodPost, base+"/api-keys", u.token, map[string]string{"name": "load"})
		if err != nil {
			return err
		}
		u.key, _ = key["key"].(string)
		s.users = append(s.users, u)
	}
	return nil
}

// close ends all processes, the last one first, and deletes what they wrote.
func (s *site) close() error {
	for i := len(s.processes) - 1; i >= 0; i-- {
		_ = s.processes[i].Process.Signal(syscall.SIGTERM)
		_ = s.processes[i].Wait()
	}
	return os.RemoveAll(s.dir)
}
