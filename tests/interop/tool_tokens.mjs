// Counts the tokens that a model reads for each tool: its name, its description and its input schema, in the o200k encoding.
//
//   node tool_tokens.mjs PROGRAM [--max-default N] [--max-all N]
//
// Prints a table for `--toolsets all`, with the totals of all tools and of the default ones. Exits with 1 if a total is over
// its bound, and with 2 if the program cannot be asked. Needs Node 20 and npm's `gpt-tokenizer` in a folder above this file:
// `.ci/tokens` installs it.

import { countTokens } from 'gpt-tokenizer/encoding/o200k_base';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

const ANSWER_TIMEOUT_MS = 20_000;

function readArguments() {
    const { values, positionals } = parseArgs({
        allowPositionals: true,
        options: { 'max-default': { type: 'string' }, 'max-all': { type: 'string' } },
    });
    if (positionals.length !== 1) throw new Error('give the path of one program');
    const bound = (name) => {
        if (values[name] === undefined) return Infinity;
        const tokens = Number(values[name]);
        if (!Number.isInteger(tokens) || tokens < 1) throw new Error(`--${name} is ${values[name]}: give a whole number from 1`);
        return tokens;
    };
    return { program: positionals[0], boundOfDefault: bound('max-default'), boundOfAll: bound('max-all') };
}

// Starts the program without any setting of the caller's, and returns its tools.
async function listTools(program, flags) {
    const settings = Object.entries(process.env).filter(([name]) => !name.startsWith('CORTEX_'));
    const child = spawn(program, flags, { env: Object.fromEntries(settings), stdio: ['pipe', 'pipe', 'pipe'] });
    let log = '';
    child.stderr.setEncoding('utf8').on('data', (text) => { log += text; });
    const failed = new Promise((_, reject) => {
        child.once('error', reject);
        child.once('exit', (code) => reject(new Error(`${program} ended with ${code} before it listed its tools`)));
        setTimeout(() => reject(new Error(`${program} did not answer within ${ANSWER_TIMEOUT_MS} ms`)), ANSWER_TIMEOUT_MS).unref();
    });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const send = (message) => child.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
    const request = async (id, method, params) => {
        send({ id, method, params });
        for (;;) {
            const { value, done } = await lines.next();
            if (done) throw new Error(`${program} closed its output before it answered ${method}`);
            const message = JSON.parse(value);
            if (message.id !== id) continue;
            if (message.error) throw new Error(`${method} failed: ${message.error.message}`);
            return message.result;
        }
    };
    const exchange = async () => {
        const clientInfo = { name: 'tool_tokens', version: '1.0.0' };
        await request(1, 'initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo });
        send({ method: 'notifications/initialized' });
        const tools = [];
        let cursor;
        do {
            const page = await request(2 + tools.length, 'tools/list', cursor ? { cursor } : {});
            tools.push(...page.tools);
            cursor = page.nextCursor;
        } while (cursor);
        return tools;
    };
    try {
        return await Promise.race([exchange(), failed]);
    } catch (error) {
        process.stderr.write(log);
        throw error;
    } finally {
        failed.catch(() => {});
        child.stdin.end();
        child.kill();
    }
}

function measure(tool) {
    const name = countTokens(tool.name);
    const description = countTokens(tool.description ?? '');
    const inputSchema = countTokens(JSON.stringify(tool.inputSchema));
    return { tool: tool.name, name, description, inputSchema, total: name + description + inputSchema };
}

function sum(label, rows) {
    const add = (key) => rows.reduce((total, row) => total + row[key], 0);
    return { tool: label, name: add('name'), description: add('description'), inputSchema: add('inputSchema'), total: add('total') };
}

function print(rows) {
    const columns = ['tool', 'name', 'description', 'inputSchema', 'total'];
    const width = (column) => Math.max(column.length, ...rows.map((row) => String(row[column]).length));
    const widths = columns.map(width);
    const line = (cells) => cells.map((cell, at) => (at === 0 ? String(cell).padEnd(widths[0]) : String(cell).padStart(widths[at]))).join('  ');
    console.log(line(columns));
    for (const row of rows) console.log(line(columns.map((column) => row[column])));
}

async function main() {
    const { program, boundOfDefault, boundOfAll } = readArguments();
    const defaults = (await listTools(program, [])).map(measure);
    const all = (await listTools(program, ['--toolsets', 'all'])).map(measure);
    const totals = [
        { ...sum(`default: ${defaults.length} tools`, defaults), bound: boundOfDefault },
        { ...sum(`all: ${all.length} tools`, all), bound: boundOfAll },
    ];
    print([...all, ...totals]);
    const over = totals.filter(({ total, bound }) => total > bound);
    for (const { tool, total, bound } of over) console.error(`${tool} take ${total} tokens, more than ${bound}`);
    return over.length > 0 ? 1 : 0;
}

try {
    process.exitCode = await main();
} catch (error) {
    console.error(String(error.message ?? error));
    process.exitCode = 2;
}
