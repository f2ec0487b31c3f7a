package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/demo"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

// defaultDevAddr keeps a trial to this machine.
const defaultDevAddr = "127.0.0.1:8080"

func (c *command) dev() *cobra.Command {
	var addr, dataDir string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try it: run everything on this machine",
		Long: `Run the platform with a private PostgreSQL, two sample backends and a gateway
document with routes to them, and make a first admin with an API key. Everything
is kept in the data directory, and found again at the next start.

It needs PostgreSQL's programs (Debian: apt-get install postgresql, Homebrew: brew
install postgresql@17), or DATABASE_URL. GATEWAY_CONFIG replaces the document.`,
		Example: `  keywarden dev
  keywarden dev --addr 127.0.0.1:9090 --data-dir ./.data --output json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options := map[string]string{}
			if cmd.Flags().Changed("addr") {
				options["server.addr"] = addr
			}
			if dataDir != "" {
				options["data.dir"] = dataDir
			}
			return c.runDev(cmd.Context(), options, verbose)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", defaultDevAddr, "where to listen")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "where to keep everything (default: the platform's place for data)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "write the access log and what happens")
	return c.WithOutput(cmd)
}

func (c *command) runDev(ctx context.Context, options map[string]string, verbose bool) error {
	cfg, err := c.Load(false, options)
	if err != nil {
		return err
	}
	if _, given := options["server.addr"]; !given && cfg.Server.Addr == config.Default().Server.Addr {
		cfg.Server.Addr = defaultDevAddr
	}
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	logger := telemetry.NewLogger(c.Sys.Stderr, level, "text")
	dir, err := c.Env().DataDir(cfg)
	if err != nil {
		return err
	}
	showcase, err := demo.New(ctx, dir, logger)
	if err != nil {
		return err
	}
	var prepare func() error
	if cfg.Gateway.File == "" && cfg.Gateway.Source == "file" {
		cfg.Gateway.File, prepare = showcase.Document(), showcase.WriteDocument
	}
	return app.Run(ctx, app.Options{
		Config: cfg, Env: c.Env(), Logger: logger, Reload: c.Sys.Reload,
		KeyInDataDir: true, Prepare: prepare, Tasks: showcase.Tasks(), Abandon: showcase.Close,
		Ready: func(ctx context.Context, p *platform.Platform, addr net.Addr) error {
			credentials, err := showcase.Seed(ctx, p, GeneratePassword)
			if err != nil {
				return err
			}
			return c.welcome(welcome{
				BaseURL: baseURL(addr, cfg.Server.TLS.CertFile != ""), AdminEmail: credentials.AdminEmail,
				AdminPassword: credentials.AdminPassword.Reveal(), APIKey: credentials.APIKey.Reveal(),
				users: showcase.UsersAddr, products: showcase.ProductsAddr, dir: dir, document: documentOf(cfg), first: credentials.First,
			})
		},
	})
}

// documentOf is where the gateway document is, in words.
func documentOf(cfg *config.Config) string {
	if cfg.Gateway.Source == "database" {
		return "revisions in the database"
	}
	return cfg.Gateway.File
}

// baseURL is where a browser on this machine reaches the listener.
func baseURL(addr net.Addr, encrypted bool) string {
	scheme := "http://"
	if encrypted {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + addr.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() || ip.IsLoopback() && ip.To4() != nil {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}

// welcome is what dev prints, once, when everything runs.
type welcome struct {
	BaseURL       string `json:"base_url"`
	AdminEmail    string `json:"admin_email"`
	AdminPassword string `json:"admin_password"`
	APIKey        string `json:"api_key"`

	users, products, dir, document string
	first                          bool
}

func (c *command) welcome(w welcome) error {
	return c.Print(w, func(out io.Writer) { _, _ = io.WriteString(out, w.text()) })
}

func (w welcome) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	orGone := func(secret, why string) string {
		if secret == "" {
			return why
		}
		return secret
	}
	line("Keywarden is running. Press Ctrl-C to stop it.")
	line("")
	line("  API         %s", w.BaseURL)
	line("  Swagger UI  %s/swagger/index.html", w.BaseURL)
	line("  Backends    http://%s (users), http://%s (products)", w.users, w.products)
	line("  Gateway     %s", w.document)
	line("  Data        %s", w.dir)
	line("")
	line("  Admin       %s", w.AdminEmail)
	line("  Password    %s", orGone(w.AdminPassword, "(changed since, or made elsewhere)"))
	line("  API key     %s", orGone(w.APIKey, "(revoked since; make another one as below)"))
	if w.first {
		line("")
		line("The password and the key were generated just now, for this data directory.")
	}
	line("")
	line("Register, sign in, make a key, and call a backend with it:")
	line("")
	const headers = `-H 'Content-Type: application/json'`
	line(`  curl -s %s/auth/register %s -d '{"email":"ada@example.com","password":"correct horse battery staple","name":"Ada"}'`, w.BaseURL, headers)
	line(`  TOKEN=$(curl -s %s/auth/login %s -d '{"email":"ada@example.com","password":"correct horse battery staple"}' | sed 's/.*"access_token":"\([^"]*\)".*/\1/')`, w.BaseURL, headers)
	line(`  KEY=$(curl -s %s/api-keys -H "Authorization: Bearer $TOKEN" %s -d '{"name":"my first key"}' | sed 's/.*"key":"\([^"]*\)".*/\1/')`, w.BaseURL, headers)
	line(`  curl -s %s/api/users -H "X-API-Key: $KEY"`, w.BaseURL)
	return b.String()
}
