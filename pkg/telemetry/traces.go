package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracesPath is where a collector takes traces below its base URL (OTLP/HTTP).
const tracesPath = "v1/traces"

func (t *Telemetry) startTraces(ctx context.Context, o Options, res *resource.Resource) error {
	endpoint, err := tracesEndpoint(o.Environ)
	if err != nil {
		return err
	}
	sampler, err := newSampler(o)
	if err != nil {
		return err
	}
	if endpoint == "" {
		t.tracers = noop.NewTracerProvider()
		t.stop = func(context.Context) error { return nil }
		return nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return fmt.Errorf("making the trace exporter: %w", err)
	}
	// The batcher's queue is bounded and drops when it is full, so that a dead
	// collector costs requests nothing.
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		sdktrace.WithSampler(sampler),
		sdktrace.WithIDGenerator(drawnIDs{}),
		sdktrace.WithBatcher(exporter),
	)
	t.tracers = provider
	if !o.TrustIncomingTrace && strings.TrimSpace(o.Environ("OTEL_TRACES_SAMPLER")) == "" {
		t.draw = newDraw(o.SampleRatio)
	}
	t.stop = func(ctx context.Context) error {
		err := provider.Shutdown(ctx)
		// When ctx ends first, the batcher leaves its export running behind; a
		// stopped exporter ends that one too.
		if ctx.Err() == nil {
			return err
		}
		if stopErr := exporter.Shutdown(ctx); !errors.Is(stopErr, ctx.Err()) {
			err = errors.Join(err, stopErr)
		}
		return err
	}
	return nil
}

// tracesEndpoint is the URL that traces are posted to; empty when tracing is
// off. The variables are those of the OpenTelemetry specification.
func tracesEndpoint(env func(string) string) (string, error) {
	disabled, err := strconv.ParseBool(env("OTEL_SDK_DISABLED"))
	if err == nil && disabled {
		return "", nil
	}
	switch kind := strings.TrimSpace(env("OTEL_TRACES_EXPORTER")); kind {
	case "", "otlp":
	case "none":
		return "", nil
	default:
		return "", fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not supported, only otlp and none", kind)
	}
	if v := env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"); v != "" {
		u, err := collectorURL("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", v)
		if err != nil {
			return "", err
		}
		return u.String(), checkProtocol(env)
	}
	if v := env("OTEL_EXPORTER_OTLP_ENDPOINT"); v != "" {
		u, err := collectorURL("OTEL_EXPORTER_OTLP_ENDPOINT", v)
		if err != nil {
			return "", err
		}
		return u.JoinPath(tracesPath).String(), checkProtocol(env)
	}
	return "", nil
}

// checkProtocol refuses what would only fail later, at each export.
func checkProtocol(env func(string) string) error {
	protocol := env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = env("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	if protocol == "grpc" {
		return errors.New("OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not supported, use http/protobuf (most collectors take it on port 4318)")
	}
	return nil
}

func collectorURL(name, value string) (*url.URL, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		// The value is not repeated: it may hold a password.
		return nil, fmt.Errorf("%s: want an http or https URL such as http://collector:4318", name)
	}
	return u, nil
}

// newSampler decides which requests are traced. Unless incoming traces are
// trusted, a request starts a trace of its own, so that ParentBased samplers
// see no parent and a client can neither force nor prevent tracing.
func newSampler(o Options) (sdktrace.Sampler, error) {
	if !(o.SampleRatio >= 0 && o.SampleRatio <= 1) { // also refuses NaN
		return nil, fmt.Errorf("trace sample ratio: want 0 to 1, got %v", o.SampleRatio)
	}
	name := strings.ToLower(strings.TrimSpace(o.Environ("OTEL_TRACES_SAMPLER")))
	if name == "" {
		return parentBased(o.TrustIncomingTrace, sdktrace.TraceIDRatioBased(o.SampleRatio)), nil
	}
	kind, byParent := strings.CutPrefix(name, "parentbased_")
	switch kind {
	case "always_on":
		return parentBased(byParent, sdktrace.AlwaysSample()), nil
	case "always_off":
		return parentBased(byParent, sdktrace.NeverSample()), nil
	case "traceidratio":
		ratio, err := samplerRatio(o.Environ("OTEL_TRACES_SAMPLER_ARG"))
		if err != nil {
			return nil, err
		}
		return parentBased(byParent, sdktrace.TraceIDRatioBased(ratio)), nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER: %q is not one of always_on, always_off, traceidratio, "+
		"parentbased_always_on, parentbased_always_off, parentbased_traceidratio", name)
}

func parentBased(yes bool, root sdktrace.Sampler) sdktrace.Sampler {
	if !yes {
		return root
	}
	return sdktrace.ParentBased(root)
}

// samplerRatio parses OTEL_TRACES_SAMPLER_ARG, whose default is 1.
func samplerRatio(arg string) (float64, error) {
	arg = strings.TrimSpace(arg)
	if arg == "" {
		return 1, nil
	}
	ratio, err := strconv.ParseFloat(arg, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return 0, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: want a number from 0 to 1, got %q", arg)
	}
	return ratio, nil
}
