package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keywarden/keywarden/pkg/gateway/benchtest/ginproxy"
)

// roleArgument makes this program be one of the others in the measurement.
const roleArgument = "role"

// Roles.
const (
	roleBackend   = "backend"
	roleCollector = "collector"
	roleProxy     = "proxy"
)

// play is one role until the process is ended. It says first where it listens.
func play(args []string) error {
	if len(args) == 0 {
		return errors.New("no role was named")
	}
	switch args[0] {
	case roleBackend:
		return serve(backend(), nil)
	case roleCollector:
		return serve(collector(), nil)
	case roleProxy:
		return proxy(args[1:])
	}
	return fmt.Errorf("there is no role %q", args[0])
}

// addresses are what a role prints when it is there.
type addresses struct {
	Main    string `json:"main"`
	Metrics string `json:"metrics,omitempty"`
}

func serve(handler, metrics http.Handler) error {
	var says addresses
	ended := make(chan error, 2)
	listen := func(handler http.Handler) (string, error) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
		go func() { ended <- server.Serve(listener) }()
		return listener.Addr().String(), nil
	}
	var err error
	if says.Main, err = listen(handler); err != nil {
		return err
	}
	if metrics != nil {
		if says.Metrics, err = listen(metrics); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(says); err != nil {
		return err
	}
	return <-ended
}

// proxy is the proxy to compare with. Without flags it has no policy at all.
func proxy(args []string) error {
	var (
		flags   = flag.NewFlagSet(roleProxy, flag.ContinueOnError)
		options ginproxy.Options
		log     string
		metrics bool
	)
	flags.Func("target", "URL of the service", func(v string) (err error) {
		options.Target, err = url.Parse(v)
		return err
	})
	flags.Func("key", "API key that may pass; repeatable", func(v string) error {
		options.Keys = append(options.Keys, v)
		return nil
	})
	flags.Func("token", "public key of access tokens, in hex", func(v string) error {
		key, err := hex.DecodeString(v)
		if err == nil && len(key) != ed25519.PublicKeySize {
			err = errors.New("not a public key of Ed25519")
		}
		options.Token = key
		return err
	})
	flags.Float64Var(&options.Limit, "limit", 0, "requests a second with one key")
	flags.Int64Var(&options.Quota, "quota", 0, "requests a month with one key")
	flags.StringVar(&options.Traces, "traces", "", "URL of the collector that gets one trace in a hundred")
	flags.BoolVar(&metrics, "metrics", false, "record the two histograms")
	flags.StringVar(&log, "log", "", "file of the access log")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if log != "" {
		file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		options.Log = io.Writer(file) // open until the process ends
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if metrics {
		options.Metrics = registry
	}
	p, err := ginproxy.New(options)
	if err != nil {
		return err
	}
	return serve(p, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}
