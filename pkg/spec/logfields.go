package spec

// LogFields is filled in by its owner.
type LogFields struct {
	Gate
}

func (*LogFields) validate(path string, v *validator) {}
