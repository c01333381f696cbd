// Uses leased MCP servers with the official TypeScript SDK: version 1, with the initialize handshake, and version 2,
// with protocol 2026-07-28.
//
// Reads `{"servers": {name: {url, headers}}, "folder": "…"}` from standard input, and prints the number of checks.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { Client as ClientOfVersion1 } from '@modelcontextprotocol/sdk/client/index.js';
import {
    StreamableHTTPClientTransport as TransportOfVersion1,
} from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ResourceUpdatedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';

const CALL_TIMEOUT_MS = 20_000;
const NOTICE_TIMEOUT_MS = 20_000;
const SESSIONS = 8;
const CALLS_EACH = 10;

const { servers, folder } = JSON.parse(await text(process.stdin));
const options = { timeout: CALL_TIMEOUT_MS };
const me = { name: 'interop', version: '1.0.0' };
let checks = 0;

function check(holds, what, saw) {
    if (!holds) throw new Error(`${what}: saw ${JSON.stringify(saw)}`);
    checks += 1;
}

// The versions of the SDK, with their differences.
const version1 = {
    name: 'version 1',
    async connect(server) {
        const { url, headers } = servers[server];
        const client = new ClientOfVersion1(me, { capabilities: {} });
        await client.connect(new TransportOfVersion1(new URL(url), { requestInit: { headers } }), options);
        return client;
    },
    call: (client, name, parameters, more) =>
        client.callTool({ name, arguments: parameters }, undefined, { ...options, ...more }),
    onUpdate: (client, handle) => client.setNotificationHandler(ResourceUpdatedNotificationSchema, handle),
    subscribe: (client, uri) => client.subscribeResource({ uri }, options),
    protocol: (client) => client.transport.protocolVersion,
    expected: '2025-11-25',
};
const version2 = (mode) => ({
    name: `version 2, ${JSON.stringify(mode)}`,
    async connect(server) {
        const { url, headers } = servers[server];
        const client = new Client(me, { capabilities: {}, versionNegotiation: { mode } });
        await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }), options);
        return client;
    },
    call: (client, name, parameters, more) => client.callTool({ name, arguments: parameters }, { ...options, ...more }),
    onUpdate: (client, handle) => client.setNotificationHandler('notifications/resources/updated', handle),
    subscribe: (client, uri) => client.listen({ resourceSubscriptions: [uri] }, options),
    protocol: (client) => client.getNegotiatedProtocolVersion(),
    expected: '2026-07-28',
});
const lines = [version1, version2({ pin: '2026-07-28' }), version2('auto')];

async function withClient(line, server, use) {
    const client = await line.connect(server);
    try {
        return await use(client);
    } finally {
        await client.close();
    }
}

const textOf = (result) => result.content[0].text;

async function files(line, number) {
    await withClient(line, 'filesystem', async (client) => {
        const saw = line.protocol(client);
        check(saw === line.expected, `${line.name} speaks ${line.expected}`, saw);
        const names = (await client.listTools({}, options)).tools.map((tool) => tool.name);
        check(names.includes('read_text_file') && names.includes('write_file'), `${line.name} lists tools`, names);
        const path = `${folder}/typescript-${number}.txt`;
        const content = `written by ${line.name}\nä€😀`;
        const written = await line.call(client, 'write_file', { path, content });
        check(!written.isError && readFileSync(path, 'utf8') === content, `${line.name} writes a file`, written);
        const read = await line.call(client, 'read_text_file', { path });
        check(textOf(read) === content, `${line.name} reads the file`, read);
        const refused = await line.call(client, 'read_text_file', { path: '/etc/hostname' });
        const isDenied = refused.isError && textOf(refused).includes('Access denied');
        check(isDenied, `${line.name} is refused other files`, refused);
    });
}

async function time(line) {
    await withClient(line, 'time', async (client) => {
        const parameters = { source_timezone: 'UTC', time: '12:00', target_timezone: 'Asia/Tokyo' };
        const converted = await line.call(client, 'convert_time', parameters);
        const isConverted = JSON.parse(textOf(converted)).target.datetime.includes('T21:00:00');
        check(isConverted, `${line.name} converts a time`, converted);
    });
}

async function memory(line, number) {
    await withClient(line, 'memory', async (client) => {
        const name = `typescript-${number}`;
        const entity = { name, entityType: 'client', observations: [line.name] };
        await line.call(client, 'create_entities', { entities: [entity] });
        const found = await line.call(client, 'open_nodes', { names: [name] });
        check(found.structuredContent.entities[0].observations[0] === line.name, `${line.name} remembers`, found);
    });
}

async function progress(line, number) {
    await withClient(line, 'everything', async (client) => {
        const steps = 4 + number;
        const seen = [];
        const more = { onprogress: ({ progress, total }) => seen.push(`${progress}/${total}`) };
        const result = await line.call(client, 'trigger-long-running-operation', { duration: 1, steps }, more);
        check(textOf(result).includes(`Steps: ${steps}`), `${line.name} runs for long`, result);
        const expected = Array.from({ length: steps }, (_, step) => `${step + 1}/${steps}`);
        check(seen.join() === expected.join(), `${line.name} sees each step`, seen);
    });
}

async function updates(line, number) {
    await withClient(line, 'everything', async (client) => {
        const uri = `demo://resource/dynamic/text/${100 + number}`;
        const seen = [];
        const received = new Promise((resolve, reject) => {
            const late = new Error(`${line.name} received no update of ${uri} within ${NOTICE_TIMEOUT_MS} ms`);
            const timer = setTimeout(() => reject(late), NOTICE_TIMEOUT_MS);
            line.onUpdate(client, (notice) => {
                seen.push(notice.params.uri);
                clearTimeout(timer);
                resolve();
            });
        });
        // A failure before the await must not be an unhandled rejection.
        received.catch(() => {});
        await line.subscribe(client, uri);
        await received;
        check(seen.every((one) => one === uri), `${line.name} receives updates of ${uri} only`, seen);
    });
}

async function crowd(line) {
    const clients = await Promise.all(Array.from({ length: SESSIONS }, () => line.connect('everything')));
    try {
        // The calls of different sessions are concurrent, those of a session sequential: each call takes a connection.
        await Promise.all(clients.map(async (client, session) => {
            for (let number = 0; number < CALLS_EACH; number += 1) {
                const message = `${line.name}, session ${session}, call ${number}`;
                const echoed = await line.call(client, 'echo', { message });
                check(textOf(echoed) === `Echo: ${message}`, `${message} gets its own answer`, echoed);
            }
        }));
    } finally {
        await Promise.all(clients.map((client) => client.close()));
    }
}

async function unauthenticated(line) {
    for (const [what, change] of [
        ['no token', () => ({})],
        ['a foreign token', () => ({ Authorization: `Bearer ${'0'.repeat(64)}` })],
    ]) {
        const known = servers.everything;
        servers.unauthenticated = { url: known.url, headers: change() };
        let saw = 'it was accepted';
        try {
            await (await line.connect('unauthenticated')).close();
        } catch (error) {
            saw = `${error.code} ${error.data?.status} ${error.message}`;
        }
        check(/401|unauthorized/i.test(saw), `${line.name} with ${what} is refused`, saw);
    }
}

async function oneByOne(use) {
    for (const [number, line] of lines.entries()) await use(line, number);
}

for (const settled of await Promise.allSettled([
    ...lines.flatMap((line, number) => [files, time, progress, updates, crowd].map((use) => use(line, number))),
    // The memory server reads, changes and writes its file, so that one of two concurrent changes can be lost.
    oneByOne(memory),
    oneByOne(unauthenticated),
])) {
    if (settled.status === 'rejected') {
        console.error(settled.reason);
        process.exitCode = 1;
    }
}
console.log(checks);
