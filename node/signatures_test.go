package node_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A user cannot name, make or read about a type of an internal package: no exported
// declaration of a public package mentions one.
func TestNoExportedSignatureNamesAnInternalType(t *testing.T) {
	const module = "github.com/musterhq/muster"
	public, exports := listExports(t, module)
	imported := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		file := exports[path]
		if file == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(file)
	})
	declarations := 0
	for _, path := range public {
		pkg, err := imported.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range pkg.Scope().Names() {
			object := pkg.Scope().Lookup(name)
			if !object.Exported() {
				continue
			}
			declarations++
			m := mentions{pkg: pkg, module: module, seen: make(map[types.Type]bool)}
			m.declaration(object)
			for _, internal := range m.internal {
				t.Errorf("%s.%s mentions %s", strings.TrimPrefix(path, module+"/"), name, internal)
			}
		}
	}
	if len(public) < 10 || declarations < 200 {
		t.Errorf("%d packages with %d exported declarations: were they listed?", len(public), declarations)
	}
}

// The test above sees what it looks for, wherever it is.
func TestMentionsAreFound(t *testing.T) {
	pkg := types.NewPackage("m/public", "public")
	hidden := types.NewPackage("m/internal/hidden", "hidden")
	secret := types.NewNamed(types.NewTypeName(token.NoPos, hidden, "Secret", nil), types.Typ[types.Int], nil)
	field := func(name string, t types.Type) *types.Struct {
		return types.NewStruct([]*types.Var{types.NewField(token.NoPos, pkg, name, t, false)}, nil)
	}
	result := types.NewSignatureType(nil, nil, nil, nil, types.NewTuple(types.NewVar(token.NoPos, pkg, "", secret)), false)
	withMethod := types.NewNamed(types.NewTypeName(token.NoPos, pkg, "T", nil), types.Typ[types.Int], nil)
	withMethod.AddMethod(types.NewFunc(token.NoPos, pkg, "M", result))
	for name, test := range map[string]struct {
		is   types.Type
		want int
	}{
		"itself":              {secret, 1},
		"a slice":             {types.NewSlice(secret), 1},
		"a map":               {types.NewMap(types.Typ[types.Int], types.NewPointer(secret)), 1},
		"a channel":           {types.NewChan(types.RecvOnly, secret), 1},
		"a result":            {result, 1},
		"an exported field":   {field("F", secret), 1},
		"an unexported field": {field("f", secret), 0},
		"an alias":            {types.NewAlias(types.NewTypeName(token.NoPos, pkg, "A", nil), secret), 1},
		"a method":            {withMethod, 1},
		"nothing":             {types.Typ[types.String], 0},
	} {
		m := mentions{pkg: pkg, module: "m", seen: make(map[types.Type]bool)}
		m.typ(test.is)
		if len(m.internal) != test.want {
			t.Errorf("%s: found %v, want %d", name, m.internal, test.want)
		}
	}
}

// mentions collects the internal types that a declaration mentions.
type mentions struct {
	pkg      *types.Package
	module   string
	seen     map[types.Type]bool
	internal []string
}

func (m *mentions) declaration(o types.Object) {
	m.typ(o.Type())
	if name, ok := o.(*types.TypeName); ok && name.IsAlias() {
		m.typ(types.Unalias(name.Type()))
	}
}

func (m *mentions) typ(t types.Type) {
	if t == nil || m.seen[t] {
		return
	}
	m.seen[t] = true
	switch t := t.(type) {
	case *types.Alias:
		m.name(t.Obj())
		m.typ(t.Rhs())
	case *types.Named:
		m.name(t.Obj())
		for arg := range t.TypeArgs().Types() {
			m.typ(arg)
		}
		if t.Obj().Pkg() != m.pkg {
			return // its own package answers for what it mentions
		}
		m.typ(t.Underlying())
		for method := range t.Methods() {
			if method.Exported() {
				m.typ(method.Signature())
			}
		}
	case *types.Pointer:
		m.typ(t.Elem())
	case *types.Slice:
		m.typ(t.Elem())
	case *types.Array:
		m.typ(t.Elem())
	case *types.Chan:
		m.typ(t.Elem())
	case *types.Map:
		m.typ(t.Key())
		m.typ(t.Elem())
	case *types.Struct:
		for field := range t.Fields() {
			if field.Exported() {
				m.typ(field.Type())
			}
		}
	case *types.Interface:
		for method := range t.ExplicitMethods() {
			if method.Exported() {
				m.typ(method.Signature())
			}
		}
		for embedded := range t.EmbeddedTypes() {
			m.typ(embedded)
		}
	case *types.Union:
		for term := range t.Terms() {
			m.typ(term.Type())
		}
	case *types.TypeParam:
		m.typ(t.Constraint())
	case *types.Signature:
		for param := range t.TypeParams().TypeParams() {
			m.typ(param)
		}
		for v := range t.Params().Variables() {
			m.typ(v.Type())
		}
		for v := range t.Results().Variables() {
			m.typ(v.Type())
		}
	}
}

func (m *mentions) name(o *types.TypeName) {
	if o.Pkg() == nil {
		return
	}
	path := o.Pkg().Path()
	if strings.HasPrefix(path, m.module+"/") && (isInternal(path) || !o.Exported()) {
		m.internal = append(m.internal, path+"."+o.Name())
	}
}

func isInternal(path string) bool {
	return strings.Contains(path, "/internal/") || strings.HasSuffix(path, "/internal")
}

// listExports returns the public packages of the module, and where the compiler's export
// data of all packages is that they depend on.
func listExports(t *testing.T, module string) (public []string, exports map[string]string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-json=ImportPath,Name,Export", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exports = make(map[string]string)
	for d := json.NewDecoder(out); ; {
		var p struct{ ImportPath, Name, Export string }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if strings.HasPrefix(p.ImportPath, module+"/") && !isInternal(p.ImportPath) && p.Name != "main" && p.Export != "" {
			public = append(public, p.ImportPath)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return public, exports
}
