package sample

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of a service's server. Idle connections live longer than a gateway's
// pool keeps them, so that the gateway is the one who closes.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 15 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 120 * time.Second
	drainTimeout   = 10 * time.Second
	maxHeaderBytes = 64 << 10
)

// healthTimeout bounds the question of --healthcheck.
const healthTimeout = 3 * time.Second

// Command is a sample service as a program.
type Command struct {
	Name    string // of the program, for its help and its log
	Addr    string // where to listen unless told otherwise, ":8081"
	Handler func(*slog.Logger) http.Handler
}

// Run serves until ctx ends and returns the exit code: 0 after an orderly end, 1
// when serving failed, 2 for wrong arguments. The address is --addr, else the
// variable ADDR, else the default. The log is JSON on stderr. With --healthcheck it
// serves nothing, but asks the service that listens on that address, for images
// without a shell, and returns 1 when that is not well.
func (c Command) Run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	flags := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", cmp.Or(getenv("ADDR"), c.Addr), "address to listen on (env ADDR)")
	ask := flags.Bool("healthcheck", false, "ask the service at the address whether it is well, and serve nothing")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if flags.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "%s takes no arguments, got %q\n", c.Name, flags.Args())
		return 2
	}
	logger := slog.New(slog.NewJSONHandler(stderr, nil)).With("service", c.Name)
	if *ask {
		if err := askHealth(ctx, *addr); err != nil {
			logger.ErrorContext(ctx, "not healthy", "addr", *addr, "error", err)
			return 1
		}
		return 0
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		logger.ErrorContext(ctx, "cannot listen", "addr", *addr, "error", err)
		return 1
	}
	if err := Serve(ctx, listener, c.Handler(logger), logger); err != nil {
		logger.ErrorContext(ctx, "cannot serve", "error", err)
		return 1
	}
	return 0
}

// askHealth asks the service that listens on addr of this machine.
func askHealth(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	url := "http://" + net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port) + "/health"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

// Serve serves h on listener until ctx ends, then ends event streams, lets other
// requests finish for up to 10 seconds, and returns nil. It always closes
// listener.
func Serve(ctx context.Context, listener net.Listener, h http.Handler, logger *slog.Logger) error {
	// Requests outlive ctx, to be finished; streams are told by their own context.
	requests, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	logger.InfoContext(ctx, "serving", "addr", listener.Addr().String())

	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	endStreams()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := server.Shutdown(drain)
	if err != nil {
		_ = server.Close()
	}
	if served := <-failed; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = served
	}
	if err != nil {
		return fmt.Errorf("finish requests: %w", err)
	}
	logger.InfoContext(drain, "stopped")
	return nil
}
