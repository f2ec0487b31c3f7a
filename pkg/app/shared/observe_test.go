package shared

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
)

// countedCache is a state that counts outcomes alone, and what it has counted, by route
// and outcome.
func countedCache(tb testing.TB) (*State, func() map[[2]string]int64) {
	tb.Helper()
	reader := metric.NewManualReader()
	answers, err := metric.NewMeterProvider(metric.WithReader(reader)).Meter("test").Int64Counter("keywarden.cache.requests")
	if err != nil {
		tb.Fatal(err)
	}
	return &State{metrics: metrics{answers: answers}}, func() map[[2]string]int64 {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &all); err != nil {
			tb.Fatal(err)
		}
		seen := map[[2]string]int64{}
		for _, point := range all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
			route, _ := point.Attributes.Value("keywarden.route")
			outcome, _ := point.Attributes.Value("keywarden.cache.outcome")
			seen[[2]string{route.AsString(), outcome.AsString()}] += point.Value
		}
		return seen
	}
}

func TestOutcomesOfTheCacheAreCountedByRoute(t *testing.T) {
	state, counted := countedCache(t)
	want := map[[2]string]int64{}
	for _, route := range []string{"orders", "users"} {
		observe := state.observeCache()(route)
		for i, o := range cache.Outcomes() {
			for range i + 1 {
				observe(o)
			}
			want[[2]string{route, string(o)}] = int64(i + 1)
		}
	}
	if diff := cmp.Diff(want, counted()); diff != "" {
		t.Error(diff)
	}
}

// An outcome that is not among them would be counted for no route.
func TestAllOutcomesAreAmongThoseThatAreCounted(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../gateway/policy/cache/cache.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Outcome" {
			return true
		}
		for _, value := range spec.Values {
			name, err := strconv.Unquote(value.(*ast.BasicLit).Value)
			if seen++; err != nil || !slices.Contains(cache.Outcomes(), cache.Outcome(name)) {
				t.Errorf("%s is not among the outcomes", name)
			}
		}
		return true
	})
	if seen != len(cache.Outcomes()) {
		t.Errorf("%d outcomes are declared, and %d listed", seen, len(cache.Outcomes()))
	}
}

// Each request to a route with a cache policy is counted.
func BenchmarkObserveCache(b *testing.B) {
	state, _ := countedCache(b)
	observe := state.observeCache()("orders")
	b.ReportAllocs()
	for b.Loop() {
		observe(cache.Hit)
	}
}
