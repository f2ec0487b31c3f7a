package app

import (
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/keywarden/keywarden/pkg/httpapi"
)

// adminRoot is where the admin API is. With a listener for operators, there is
// nothing at and below it on the main one, whatever the gateway's routes say: who
// meant the admin API must not speak to a service.
const adminRoot = "/admin/v1"

// operatorsHandler serves what only operators have business with, on a listener of
// its own: the admin API and the probes, behind the same edge as the main
// listener's, and metrics and profiles, which ask nobody who they are.
func (a *application) operatorsHandler() (http.Handler, error) {
	if err := a.openAPI(); err != nil {
		return nil, err
	}
	engine := httpapi.NewEngine(int64(a.Config.Server.BodyLimit), httpapi.Nothing)
	for _, r := range a.adminAPI() {
		r.Mount(engine)
	}
	a.api.system.MountProbes(engine)
	api, err := a.edge(httpapi.Shielded(engine), nil)
	if err != nil {
		return nil, err
	}
	tools := a.metricsHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" || strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
			tools.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	}), nil
}

// metricsHandler serves metrics and profiles.
func (a *application) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.telemetry.MetricsHandler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
