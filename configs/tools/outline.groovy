// Prints the calls of a Groovy file as JSON, as Groovy's own compiler reads them, without
// running any: [{name, line, args: [...], named: {...}, body: [calls], sets: {...}}]. An
// argument is its text where it is constant, "${…}" where it is put together from values,
// and the calls within it go to "inner". It fails, with line and column, where the file
// is not Groovy.
import groovy.json.JsonOutput
import org.codehaus.groovy.ast.expr.*
import org.codehaus.groovy.ast.stmt.*
import org.codehaus.groovy.control.CompilationUnit
import org.codehaus.groovy.control.Phases

class Outline {
    static List calls(Statement statement) {
        if (statement instanceof BlockStatement) {
            return statement.statements.collectMany { calls(it) }
        }
        if (statement instanceof ExpressionStatement) {
            return calls(statement.expression)
        }
        if (statement instanceof ReturnStatement) {
            return calls(statement.expression)
        }
        // Control flow has no place in a declarative pipeline; the name says that it is there.
        return statement instanceof EmptyStatement ? [] : [[name: statement.class.simpleName, line: statement.lineNumber]]
    }

    static List calls(Expression expression) {
        if (expression instanceof BinaryExpression && expression.operation.text == '=') {
            return [[name: '=', line: expression.lineNumber, args: [expression.leftExpression.text, text(expression.rightExpression)], inner: within(expression.rightExpression)]]
        }
        if (expression instanceof MethodCallExpression) {
            return [call(expression)]
        }
        if (expression instanceof VariableExpression) { // a name alone, as in "agent any"
            return [[name: expression.name, line: expression.lineNumber]]
        }
        return within(expression)
    }

    static Map call(MethodCallExpression c) {
        def out = [name: c.methodAsString ?: '?', line: c.lineNumber, args: [], named: [:], body: [], inner: []]
        if (!c.implicitThis) {
            out.on = c.objectExpression.text
        }
        def args = c.arguments instanceof TupleExpression ? c.arguments.expressions : [c.arguments]
        args.each { a ->
            if (a instanceof ClosureExpression) {
                out.body.addAll(calls(a.code))
            } else if (a instanceof MapExpression) { // NamedArgumentListExpression is one
                a.mapEntryExpressions.each {
                    out.named[it.keyExpression.text] = text(it.valueExpression)
                    out.inner.addAll(within(it.valueExpression))
                }
            } else {
                out.args << text(a)
                out.inner.addAll(within(a))
            }
        }
        return out
    }

    static List within(Expression e) {
        if (e instanceof ListExpression) {
            return e.expressions.collectMany { calls(it) }
        }
        return e instanceof MethodCallExpression ? [call(e)] : []
    }

    static String text(Expression e) {
        if (e instanceof ConstantExpression) {
            return String.valueOf(e.value)
        }
        return e instanceof GStringExpression ? '${…}' + e.text : e.text
    }
}

def unit = new CompilationUnit()
unit.addSource(new File(args[0]))
unit.compile(Phases.CONVERSION)
println JsonOutput.toJson(Outline.calls(unit.AST.modules[0].statementBlock))
