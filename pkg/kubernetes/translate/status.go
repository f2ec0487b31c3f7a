package translate

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// normal is a status in a form that can be compared: by its JSON, in which times have
// one form, with conditions in one order, and without what is empty.
func normal(status any) any {
	text, err := json.Marshal(status)
	if err != nil {
		return nil
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		return nil
	}
	return sorted(out)
}

// sorted orders conditions by their type and takes away what is empty.
func sorted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if member = sorted(member); member == nil {
				delete(v, name)
			} else {
				v[name] = member
			}
		}
		if len(v) == 0 {
			return nil
		}
		return v
	case []any:
		for i := range v {
			v[i] = sorted(v[i])
		}
		slices.SortStableFunc(v, func(a, b any) int { return strings.Compare(conditionType(a), conditionType(b)) })
		if len(v) == 0 {
			return nil
		}
	}
	return v
}

// conditionType is the type of a condition; everything else is left as it is.
func conditionType(v any) string {
	if c, ok := v.(map[string]any); ok && c["lastTransitionTime"] != nil {
		name, _ := c["type"].(string)
		return name
	}
	return ""
}

// sameParent reports whether two references name the same parent.
func sameParent(namespace string, a, b *object.ParentRef) bool {
	return value(a.Group, gatewayGroup) == value(b.Group, gatewayGroup) && value(a.Kind, KindGateway) == value(b.Kind, KindGateway) &&
		value(a.Namespace, namespace) == value(b.Namespace, namespace) && a.Name == b.Name &&
		value(a.SectionName, "") == value(b.SectionName, "") && value(a.Port, 0) == value(b.Port, 0)
}
