package tools

import (
	"bytes"
	"context"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// root is the top of the repository, seen from this package.
const root = "../.."

// load reads docker-compose.yml as docker compose does: schema, interpolation,
// merges, references between services, volumes, networks and secrets. Nothing of
// this machine's environment enters.
func load(t *testing.T, env map[string]string, profiles ...string) *types.Project {
	t.Helper()
	folder, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "docker-compose.yml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return loadText(t, folder, file, text, env, profiles)
}

func loadText(t *testing.T, folder, file string, text []byte, env map[string]string, profiles []string) *types.Project {
	t.Helper()
	project, err := tryLoad(t.Context(), folder, file, text, env, profiles)
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func tryLoad(ctx context.Context, folder, file string, text []byte, env map[string]string, profiles []string) (*types.Project, error) {
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  folder,
		ConfigFiles: []types.ConfigFile{{Filename: file, Content: text}},
		Environment: env,
	}, loader.WithProfiles(profiles))
}

// The services of each profile.
var (
	core = []string{"app", "postgres", "productsvc", "redis", "usersvc"}
	full = []string{"alertmanager", "app", "grafana", "jaeger", "postgres", "productsvc", "prometheus", "redis", "swagger-ui", "usersvc"}
)

func TestComposeProfilesHaveTheirServices(t *testing.T) {
	for profile, want := range map[string][]string{"core": core, "full": full} {
		if got := slices.Sorted(maps.Keys(load(t, nil, profile).Services)); !slices.Equal(got, want) {
			t.Errorf("profile %s starts %v, want %v", profile, got, want)
		}
	}
}

// The loader is what the other tests rest on: it has to see mistakes.
func TestComposeLoaderRefusesMistakes(t *testing.T) {
	folder, _ := filepath.Abs(root)
	file := filepath.Join(folder, "docker-compose.yml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"unknown property":           {"    stop_grace_period:", "    stop_grace_periodd:"},
		"unknown service":            {"      redis: {condition: service_healthy}", "      rediss: {condition: service_healthy}"},
		"unknown condition":          {"redis: {condition: service_healthy}", "redis: {condition: service_well}"},
		"unknown secret":             {"secrets: [redis_conf]", "secrets: [redis_config]"},
		"unknown volume":             {"postgres:/var/lib", "postgresql:/var/lib"},
		"unknown network":            {"networks: [platform]", "networks: [platforms]"},
		"service of another profile": {"profiles: [core, full]\n    image: redis", "profiles: [full]\n    image: redis"},
	} {
		changed := bytes.Replace(text, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(changed, text) {
			t.Errorf("%s: the file no longer has %q", name, change[0])
			continue
		}
		if _, err := tryLoad(t.Context(), folder, file, changed, nil, []string{"core"}); err == nil {
			t.Errorf("%s: loads", name)
		}
	}
}

// A service that waits for another one's health waits for ever when that has no
// health check.
func TestComposeStartIsGatedByHealth(t *testing.T) {
	project := load(t, nil, "full")
	for name, s := range project.Services {
		if s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) < 2 {
			t.Errorf("%s has no health check", name)
		} else if form := s.HealthCheck.Test[0]; form != "CMD" && form != "CMD-SHELL" {
			t.Errorf("%s is checked by %q", name, s.HealthCheck.Test)
		}
		for other, d := range s.DependsOn {
			if d.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s waits for %s by %s", name, other, d.Condition)
			}
		}
	}
	for name, needs := range map[string][]string{
		"app":        {"postgres", "productsvc", "redis", "usersvc"},
		"prometheus": {"alertmanager", "app"},
		"grafana":    {"jaeger", "prometheus"},
	} {
		if got := slices.Sorted(maps.Keys(project.Services[name].DependsOn)); !slices.Equal(got, needs) {
			t.Errorf("%s waits for %v, want %v", name, got, needs)
		}
	}
}

// writable lists the services whose root file system cannot be read-only, with why.
var writable = map[string]string{
	"swagger-ui": "its start writes the configuration of its web server",
}

func TestComposeServicesAreConfined(t *testing.T) {
	for name, s := range load(t, nil, "full").Services {
		if _, may := writable[name]; s.ReadOnly == may {
			t.Errorf("%s: read_only is %t", name, s.ReadOnly)
		}
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || s.Privileged {
			t.Errorf("%s has capabilities: drops %v, adds %v, privileged %t", name, s.CapDrop, s.CapAdd, s.Privileged)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may gain privileges", name)
		}
		if s.NetworkMode != "" || s.Pid != "" || s.Ipc != "" {
			t.Errorf("%s shares a namespace of the host", name)
		}
		if s.Deploy == nil || s.Deploy.Resources.Limits == nil ||
			s.Deploy.Resources.Limits.NanoCPUs <= 0 || s.Deploy.Resources.Limits.MemoryBytes <= 0 || s.Deploy.Resources.Limits.Pids <= 0 {
			t.Errorf("%s has no limits of CPU, memory and processes", name)
		}
		if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s: its log grows without bound", name)
		}
		for _, p := range s.Ports {
			if ip := net.ParseIP(p.HostIP); ip == nil || !ip.IsLoopback() {
				t.Errorf("%s publishes port %s on %q, not on loopback", name, p.Published, p.HostIP)
			}
		}
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeBind:
				if !v.ReadOnly {
					t.Errorf("%s can write to %s", name, v.Source)
				}
			case types.VolumeTypeVolume:
			default:
				t.Errorf("%s mounts a %s", name, v.Type)
			}
		}
	}
}

// tagged is a version of at least two numbers: what a later pull finds again.
var tagged = regexp.MustCompile(`:v?[0-9]+\.[0-9]+[0-9a-z.-]*(@sha256:[0-9a-f]{64})?$`)

func TestComposeImagesArePinned(t *testing.T) {
	for name, s := range load(t, nil, "full").Services {
		if s.Build != nil {
			continue
		}
		if !tagged.MatchString(s.Image) {
			t.Errorf("%s: image %s has no version", name, s.Image)
		}
	}
}

// secretName is how a variable is called that holds a secret.
var secretName = regexp.MustCompile(`(?i)(password|secret|token|api_?key|master_key|redis_url|database_url)$`)

func TestComposeKeepsSecretsOutOfTheEnvironment(t *testing.T) {
	project := load(t, nil, "full")
	for name, s := range project.Services {
		for variable, value := range s.Environment {
			if value == nil {
				t.Errorf("%s takes %s from the environment of docker compose", name, variable)
			} else if secretName.MatchString(variable) && *value != "" {
				t.Errorf("%s has the secret %s in its environment", name, variable)
			}
		}
		var mounted []string
		for _, secret := range s.Secrets {
			mounted = append(mounted, "/run/secrets/"+secret.Source)
		}
		used := strings.Join(append(append(slices.Clone(s.Command), s.HealthCheck.Test...), values(s.Environment)...), "\n")
		for _, path := range regexp.MustCompile(`/run/secrets/\w+`).FindAllString(used, -1) {
			if !slices.Contains(mounted, path) {
				t.Errorf("%s reads %s, which it does not have", name, path)
			}
		}
		for _, path := range mounted {
			if !strings.Contains(used, path) {
				t.Errorf("%s has %s and does not read it", name, path)
			}
		}
	}
	ignored, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"/.secrets/", "/.env"} {
		if !slices.Contains(strings.Split(string(ignored), "\n"), line) {
			t.Errorf("git does not ignore %s", line)
		}
	}
}

// The plain variables go on working, for those who keep secrets elsewhere.
func TestComposeTakesPlainVariables(t *testing.T) {
	project := load(t, map[string]string{"POSTGRES_PASSWORD": "plain", "POSTGRES_PASSWORD_FILE": ""}, "core")
	for _, name := range []string{"app", "postgres"} {
		env := project.Services[name].Environment
		if *env["POSTGRES_PASSWORD"] != "plain" || *env["POSTGRES_PASSWORD_FILE"] != "" {
			t.Errorf("%s has POSTGRES_PASSWORD=%s POSTGRES_PASSWORD_FILE=%s", name, *env["POSTGRES_PASSWORD"], *env["POSTGRES_PASSWORD_FILE"])
		}
	}
}

func values(env types.MappingWithEquals) []string {
	var all []string
	for _, v := range env {
		if v != nil {
			all = append(all, *v)
		}
	}
	return all
}

// make secrets writes each file that the services mount, and never over one.
func TestMakeSecretsWritesWhatComposeMounts(t *testing.T) {
	folder := t.TempDir()
	run := func() {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", root, "secrets", "SECRETS="+filepath.Join(folder, "s"), "DOTENV="+filepath.Join(folder, "env"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run()
	info, err := os.Stat(filepath.Join(folder, "s"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	before := map[string]string{}
	for name, secret := range load(t, nil, "full").Secrets {
		if filepath.Base(filepath.Dir(secret.File)) != ".secrets" {
			t.Errorf("secret %s is in %s", name, secret.File)
		}
		file := filepath.Join(folder, "s", filepath.Base(secret.File))
		text, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("make secrets does not write %s", name)
			continue
		}
		if len(bytes.TrimSpace(text)) < 32 {
			t.Errorf("secret %s has %d bytes", name, len(text))
		}
		before[file] = string(text)
	}
	password := strings.TrimPrefix(strings.TrimSpace(before[filepath.Join(folder, "s", "redis_conf")]), "requirepass ")
	if url := before[filepath.Join(folder, "s", "redis_url")]; password == "" || strings.TrimSpace(url) != "redis://default:"+password+"@redis:6379/0" {
		t.Error("redis_url does not hold the password of redis_conf")
	}
	run()
	for file, text := range before {
		if again, _ := os.ReadFile(file); string(again) != text {
			t.Errorf("a second make secrets changes %s", file)
		}
	}
}

// Files that one service reads name others, by the names of the network.
func TestComposeServicesAreCalledWhatConfigurationsCallThem(t *testing.T) {
	project := load(t, nil, "full")
	called := regexp.MustCompile(`(?m)(?:https?://|["'\[\s-])([a-z][a-z-]*):([0-9]{4,5})\b`)
	for name, s := range project.Services {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			err := filepath.WalkDir(v.Source, func(file string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() || !slices.Contains([]string{".yml", ".yaml"}, filepath.Ext(file)) || strings.Contains(file, "test") {
					return err
				}
				text, err := os.ReadFile(file)
				for _, m := range called.FindAllSubmatch(text, -1) {
					if _, ok := project.Services[string(m[1])]; !ok && string(m[1]) != "localhost" {
						t.Errorf("%s: %s speaks of %s:%s, which is no service", name, filepath.Base(file), m[1], m[2])
					}
				}
				return err
			})
			if err != nil {
				t.Errorf("%s mounts what cannot be read: %v", name, err)
			}
		}
	}
}
