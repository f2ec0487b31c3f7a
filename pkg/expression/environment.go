package expression

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Limits of the text beyond its length.
const (
	maxNesting      = 50
	maxNodes        = 2000
	maxRegexProgram = 400 // instructions
	maxRegex        = 500 // bytes
)

// inNetwork is the name of the function inNetwork(address, network).
const inNetwork = "inNetwork"

// variable is something that expressions may ask for.
type variable struct {
	name string
	kind *cel.Type
}

// variables are all of them. The library resolves names with a
// dot as a whole, so that nothing is built but what is asked for.
var variables = []variable{
	{"request.method", cel.StringType},
	{"request.host", cel.StringType},
	{"request.path", cel.StringType},
	{"request.scheme", cel.StringType},
	{"request.id", cel.StringType},
	{"request.client", cel.StringType},
	{"request.headers", cel.MapType(cel.StringType, cel.StringType)},
	{"request.query", cel.MapType(cel.StringType, cel.StringType)},
	{"request.size", cel.IntType},
	{"request.route", cel.StringType},
	{"principal.authenticated", cel.BoolType},
	{"principal.kind", cel.StringType},
	{"principal.user_id", cel.StringType},
	{"principal.role", cel.StringType},
	{"principal.scopes", cel.ListType(cel.StringType)},
	{"principal.key_id", cel.StringType},
	{"principal.key_name", cel.StringType},
	{"now", cel.TimestampType},
}

// fieldsOf lists the fields of request or principal.
func fieldsOf(object string) []string {
	var list []string
	for _, v := range variables {
		if field, ok := strings.CutPrefix(v.name, object+"."); ok {
			list = append(list, field)
		}
	}
	return list
}

// environment is made once: that takes longer than compiling an expression.
var environment = sync.OnceValues(newEnvironment)

func newEnvironment() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(MaxText),
		cel.ParserRecursionLimit(maxNesting),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		cel.EagerlyValidateDeclarations(true),
		// All macros but has: a name that is missing is an empty text, not an error.
		cel.ClearMacros(),
		cel.Macros(slices.DeleteFunc(slices.Clone(cel.StandardMacros), func(m cel.Macro) bool { return m.Function() == "has" })...),
		cel.Function(inNetwork, cel.Overload("in_network", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(isInNetwork))),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	return cel.NewEnv(options...)
}

// isInNetwork is inNetwork. A text that is no address is an error rather than
// false, which "not in the network" would turn into yes.
func isInNetwork(address, network ref.Val) ref.Val {
	a, ok := address.(types.String)
	n, also := network.(types.String)
	if !ok || !also {
		return types.NewErr("inNetwork needs two texts")
	}
	ip, err := netip.ParseAddr(string(a))
	if err != nil {
		return types.NewErr("inNetwork needs an address")
	}
	prefix, err := netip.ParsePrefix(string(n))
	if err != nil {
		return types.NewErr("inNetwork needs a network such as 10.0.0.0/8")
	}
	return types.Bool(prefix.Contains(ip.Unmap().WithZone("")))
}

// sizes tells how large variables can be, so that the cost of most expressions is
// known to be bounded before they run.
type sizes struct{}

// What the listeners and package canonical let pass at most; where an operator
// allows more, an estimate is off by as much.
const (
	maxFieldBytes  = 64 << 10
	maxTargetBytes = 16 << 10
	maxFieldCount  = 200
	maxScopeCount  = 200
	maxScopeBytes  = 64
	maxShortBytes  = 300
)

// EstimateSize implements [cost.Estimator].
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	size := func(most uint64) *cost.SizeEstimate { return &cost.SizeEstimate{Max: most} }
	path := node.Path()
	if len(path) == 0 {
		return nil
	}
	name, element := path[0], len(path) > 1
	switch {
	case element && (name == "request.headers" || name == "request.query"):
		return size(maxFieldBytes)
	case element && name == "principal.scopes":
		return size(maxScopeBytes)
	}
	switch name {
	case "request.headers":
		return size(maxFieldCount)
	case "request.query", "request.path":
		return size(maxTargetBytes)
	case "principal.scopes":
		return size(maxScopeCount)
	}
	if slices.ContainsFunc(variables, func(v variable) bool { return v.name == name }) {
		return size(maxShortBytes)
	}
	return nil
}

// EstimateCallCost implements [cost.Estimator].
func (sizes) EstimateCallCost(function, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if function == inNetwork {
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(10)}
	}
	return nil
}
